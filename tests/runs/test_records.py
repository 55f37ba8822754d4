"""Reading metrics.jsonl that is damaged, foreign or very long."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from megachar.runs import records as module
from megachar.runs.folder import RunFolder
from megachar.runs.plots import plot_run
from megachar.runs.records import START, read_records
from megachar.training.run_log import RunLog
from tests.runs.test_plots import write_run


def line(step: Any, **more: Any) -> bytes:
    values = {"kind": "train", "step": step, "bits_per_character": 2.0, "layers": [[3.0], [2.0]], **more}
    return json.dumps(values).encode() + b"\n"


@pytest.mark.parametrize(
    "damaged",
    [
        b"\xff\xfe\n",
        b"not JSON\n",
        b"[" * 100_000 + b"\n",
        b"null\n",
        b"3\n",
        b"{}\n",
        b'{"kind": ["train"], "step": 1}\n',
        line("2"),
        line(-2),
        line(2, bits_per_character="nan"),
        line(2, bits_per_character=10**400),
        line(2, layers=5),
        line(2, layers=[[1.0], ["x"]]),
        line(2, layers=[[3.0], [2.0], [1.0]]),
        line(2, characters_per_second=0.0),
        line(2, seconds=-1.0),
        line(2, flops="1e9"),
        line(2, epoch=10**400),
        b'"' + b"x" * (5 << 20) + b'"\n',
    ],
)
def test_what_is_damaged_is_left_out_and_counted(tmp_path: Path, damaged: bytes) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics_file.write_bytes(line(1) + damaged + b"\n" + line(3))
    records = read_records(folder, ["train", "validation"])
    assert [record["step"] for record in records.of("train")] == [1, 3]
    assert records.num_damaged == 1
    assert records.remark(folder) == f"{folder.metrics_file}: 1 line is damaged or cut off and left out"


def test_numbers_that_are_not_finite_are_none_where_there_may_be_none(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics_file.write_bytes(line(1, gradient_norm=float("inf"), layers=[[float("nan")], [2.0]]))
    [record] = read_records(folder, ["train"]).of("train")
    assert record["gradient_norm"] is None
    assert record["layers"] == [[None], [2.0]]


def test_a_loss_that_is_no_number_is_told_from_none(tmp_path: Path) -> None:
    """An older megachar wrote NaN, and null is what JSON has for it."""
    folder = RunFolder(tmp_path)
    folder.metrics_file.write_bytes(line(1, bits_per_character=float("nan")) + line(2, bits_per_character=None))
    records = read_records(folder, ["train"])
    assert [math.isnan(record["bits_per_character"]) for record in records.of("train")] == [True, True]
    assert records.num_damaged == 0


@pytest.mark.parametrize("thinned", [False, True])
def test_what_was_taken_back_does_not_count(tmp_path: Path, thinned: bool) -> None:
    """Killed after step 6 and resumed at step 4, then taken back to step 3; events of the latter stay."""
    folder = RunFolder(tmp_path)
    events = [(START, 4, {}), ("train", 5, {}), ("guard", 6, {"returned_to": 3}), ("guard", 6, {})]
    before = b"".join(line(step) for step in range(1, 7)) + line(5, kind="guard")
    folder.metrics_file.write_bytes(before + b"".join(line(step, kind=kind, **more) for kind, step, more in events))
    records = read_records(folder, ["train", "guard"], thinned)
    assert [record["step"] for record in records.of("train")] == [1, 2, 3]
    assert [record["step"] for record in records.of("guard")] == [6, 6]


def test_a_pipe_in_its_place_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    assert read_records(RunFolder(tmp_path), ["train"]).of("train") == []


def test_a_long_file_is_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its extremes and its newest stay, of a step recorded twice the later, and never many more at once."""
    monkeypatch.setattr(module, "_MOST_STRETCHES", 20)
    folder, bits = RunFolder(tmp_path), {step: 3 - step / 10_000 for step in range(10, 20_001, 10)}
    lines = [line(step, bits_per_character=value, gradient_norm=1.0) for step, value in bits.items()]
    lines[700] = line(7010, bits_per_character=9.0)
    lines[900] = line(9010, bits_per_character=0.5)
    lines[1200] = line(12010, gradient_norm=77.0)
    again = line(7010, bits_per_character=bits[7010])
    folder.metrics_file.write_bytes(b"".join([*lines, again]))
    found = read_records(folder, ["train"], thinned=True).of("train")
    assert 20 < len(found) < 20 * 8
    steps = [record["step"] for record in found]
    assert steps == sorted(set(steps))
    assert steps[-1] == 20_000
    assert max(record["bits_per_character"] for record in found) == bits[10]
    assert min(found, key=lambda record: float(record["bits_per_character"]))["step"] == 9010
    assert max(record.get("gradient_norm", 0) for record in found) == 77
    assert len(read_records(folder, ["train"]).of("train")) == 2000


def test_pictures_of_a_damaged_file(tmp_path: Path) -> None:
    run = write_run(tmp_path, num_layers=3)
    text = run.metrics_file.read_bytes()
    run.metrics_file.write_bytes(text + b'\n\xff\n{"kind": "train", "step": 1}\n{"kind": "validation"}\n')
    assert len(plot_run(run)) == 2


def test_a_picture_that_fails_is_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run that has done its work does not fail of it."""

    def fail(folder: RunFolder) -> None:
        raise ValueError("no font")

    monkeypatch.setattr("megachar.training.run_log.plot_run", fail)
    log, notes = object.__new__(RunLog), list[str]()
    log.folder = RunFolder(tmp_path)
    monkeypatch.setattr(RunLog, "note", lambda _, text: notes.append(text))
    log._plot()
    assert notes == [f"no pictures: ValueError: no font; draw them by megachar plot {tmp_path}"]
