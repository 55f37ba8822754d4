"""What is written to metrics.jsonl is read, each step once, also after kills, torn lines and full disks."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megachar.base.errors import PlatformError
from megachar.parallel.engine import LossSums
from megachar.runs import sinks
from megachar.runs.folder import RunFolder
from megachar.runs.metrics import MetricsWriter, layer_bits, read_metrics
from megachar.runs.records import validation_order
from megachar.runs.sinks.json_lines import JsonLines


def record(kind: str, step: int, **values: Any) -> str:
    return json.dumps({"kind": kind, "step": step, "bits_per_character": 2.0, **values}) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def test_no_file(folder: RunFolder) -> None:
    assert read_metrics(folder, "train") == []


def test_kinds_are_told_apart(folder: RunFolder) -> None:
    folder.metrics_file.write_text(record("train", 1, x=1) + record("validation", 1, x=2) + record("train", 2, x=3))
    assert [entry["x"] for entry in read_metrics(folder, "train")] == [1, 3]
    assert [entry["x"] for entry in read_metrics(folder, "validation")] == [2]


def test_of_a_step_taken_twice_the_later_counts(folder: RunFolder) -> None:
    """Killed after step 30, resumed from step 10."""
    lines = [record("train", step, x=f"{run}{step}") for run, steps in (("a", (10, 20, 30)), ("b", (20, 30, 40)))
             for step in steps]  # fmt: skip
    folder.metrics_file.write_text("".join(lines))
    assert [entry["x"] for entry in read_metrics(folder, "train")] == ["a10", "b20", "b30", "b40"]


@pytest.mark.parametrize("kept", [1, 8, 20, 35])
def test_a_torn_last_line(folder: RunFolder, kept: int) -> None:
    folder.metrics_file.write_text(record("train", 1, x=1) + record("train", 2, x=[1.5, 2.5])[:kept])
    assert [entry["step"] for entry in read_metrics(folder, "train")] == [1]


def test_a_torn_line_costs_no_record_of_the_resumed_run(folder: RunFolder) -> None:
    folder.metrics_file.write_text(record("train", 1) + record("train", 2)[:9])
    writer = MetricsWriter(folder, 1)
    writer.write("train", 2, {"bits_per_character": 2.0})
    writer.close()
    assert [entry["step"] for entry in read_metrics(folder, "train")] == [1, 2]


def test_what_a_killed_process_recorded_too_much_does_not_count(folder: RunFolder) -> None:
    """It logged every 10 steps and was killed after step 35; the run goes on from step 20 and logs every 15."""
    folder.metrics_file.write_text("".join(
        record("start", first) + "".join(record("train", step) + record("guard", step, x=first) for step in steps)
        for first, steps in ((0, (10, 20, 30)), (20, (25, 30, 35, 50)))
    ))  # fmt: skip
    assert [entry["step"] for entry in read_metrics(folder, "train")] == [10, 20, 25, 30, 35, 50]
    assert [(entry["step"], entry["x"]) for entry in read_metrics(folder, "guard")] == [
        (10, 0), (20, 0), (25, 20), (30, 20), (35, 20), (50, 20),
    ]  # fmt: skip


def test_bad_steps_of_one_number_are_all_kept(folder: RunFolder) -> None:
    """Step 7 is bad, and after a rollback to step 4 again; what was measured in between was taken back."""
    back = {"action": "rollback", "returned_to": 4}
    steps = "".join(record("train", step) for step in (4, 5, 6))
    again = record("train", 5, again=True) + record("guard", 7, **back) + record("validation", 4)
    folder.metrics_file.write_text(record("start", 0) + steps + record("guard", 7, **back) + again)
    assert [entry["step"] for entry in read_metrics(folder, "guard")] == [7, 7]
    assert [entry["step"] for entry in read_metrics(folder, "train")] == [4]
    old = [record("guard", 7, action="rollback"), record("guard", 7, action="skip")]
    folder.metrics_file.write_text("".join(old))  # of an older megachar
    assert [entry["action"] for entry in read_metrics(folder, "guard")] == ["rollback", "skip"]


def test_curves_of_tensorboard_go_forward(folder: RunFolder) -> None:
    """Killed after step 4 and resumed at step 2, taken back from 4 to 3 after that."""
    for number, (first, steps) in enumerate(((0, (1, 2, 3, 4)), (2, (3, 4)))):
        writer = MetricsWriter(folder, first)
        for step in steps:
            writer.write("train", step, {"x": float(10 * number + step), "epoch": 0.5, "seconds": 9.0})
        if number:
            writer.go_back(3)
            writer.write("guard", 4, {"loss_nats": 9.0})
            writer.write("train", 4, {"x": 24.0})
        writer.close()
    events = EventAccumulator(str(folder.tensorboard)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/x")] == [(1, 1), (2, 2), (3, 13), (4, 24)]
    assert [event.step for event in events.Scalars("guard/loss_nats")] == [4]
    assert sorted(events.Tags()["scalars"]) == ["guard/loss_nats", "train/epoch", "train/x"]


def test_what_is_written_is_read(folder: RunFolder) -> None:
    values = {"bits_per_character": 2.5, "gradient_norm": None, "layers": [[None, None], [2.5, 3.25]]}
    for step in (1, 2):
        writer = MetricsWriter(folder, step - 1)  # opened anew: appends
        writer.write("train", step, values)
        writer.close()
    assert read_metrics(folder, "train") == [{"kind": "train", "step": step, **values} for step in (1, 2)]
    assert list(folder.tensorboard.glob("events.*"))


def test_no_figure_is_written_that_is_no_json(folder: RunFolder) -> None:
    """And one that an older megachar wrote as NaN reads as what is written now."""
    writer = MetricsWriter(folder, 0)
    writer.write("validation", 1, {"bits_per_character": math.nan})
    writer.write("guard", 1, {"loss_nats": math.inf})
    writer.close()
    for line in folder.metrics_file.read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    with folder.metrics_file.open("a") as file:
        file.write(record("validation", 2, bits_per_character=math.nan))
        file.write(record("validation", 3, bits_per_character=2.5))
    read = read_metrics(folder, "validation")
    assert [math.isnan(entry["bits_per_character"]) for entry in read] == [True, True, False]
    assert min(read, key=validation_order)["step"] == 3


def test_a_record_is_on_disk_at_once(folder: RunFolder) -> None:
    writer = MetricsWriter(folder, 0)
    writer.write("validation", 3, {"bits_per_character": 1.0})
    assert len(read_metrics(folder, "validation")) == 1
    writer.close()


def test_layer_bits() -> None:
    """Nats over counts in bits; None where a layer was silent."""
    nats, counts = np.array([[0.0, 0.0], [6.0, 9.0]]), np.array([0.0, 3.0])
    bits = layer_bits(LossSums(nats, counts))
    assert bits[0] == [None, None]
    assert bits[1] == pytest.approx([2 / math.log(2), 3 / math.log(2)], abs=1e-6)
    json.dumps(bits, allow_nan=False)


def test_a_full_disk_is_told(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = MetricsWriter(folder, 0)
    writer.write("train", 1, {"bits_per_character": 2.0})
    with Path("/dev/full").open("a", encoding="utf-8") as full:
        (lines,) = [sink for sink in writer._sinks if isinstance(sink, JsonLines)]
        monkeypatch.setattr(lines, "_file", full)
        with pytest.raises(PlatformError, match="cannot be written: No space left on device; free space"):
            writer.write("train", 2, {"x": 2})
        with pytest.raises(PlatformError, match="cannot be written"):
            writer.close()
    monkeypatch.undo()
    writer.close()
    assert [entry["step"] for entry in read_metrics(folder, "train")] == [1]


def test_another_sink_is_one_file(folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class in a file of the package of sinks gets every record, and hears of steps that are taken back."""
    place = tmp_path / "more"
    place.mkdir()
    (place / "csv_lines.py").write_text(
        "from megachar.runs.sinks.sink import Sink\n"
        "class CsvLines(Sink):\n"
        "    def __init__(self, folder, step):\n"
        "        self.file = (folder.path / 'metrics.csv').open('a')\n"
        "    def write(self, kind, step, values):\n"
        "        self.file.write(f'{kind},{step},{values.get(\"bits_per_character\")}\\n')\n"
        "    def go_back(self, step):\n"
        "        self.file.write(f'back,{step},\\n')\n"
        "    def close(self):\n"
        "        self.file.close()\n"
    )
    monkeypatch.setattr(sinks, "__path__", [*sinks.__path__, str(place)])
    writer = MetricsWriter(folder, 0)
    writer.write("train", 1, {"bits_per_character": 2.0})
    writer.go_back(0)
    writer.close()
    assert (folder.path / "metrics.csv").read_text() == "train,1,2.0\nback,0,\n"
