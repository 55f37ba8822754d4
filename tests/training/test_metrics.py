import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megachar.errors import PlatformError
from megachar.parallel.engine import LossSums
from megachar.training.metrics import MetricsWriter, layer_bits, read_metrics
from megachar.training.run_folder import RunFolder


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
    writer = MetricsWriter(folder)
    writer.write("train", 2, {"bits_per_character": 2.0})
    writer.close()
    assert [entry["step"] for entry in read_metrics(folder, "train")] == [1, 2]


def test_what_is_written_is_read(folder: RunFolder) -> None:
    values = {"bits_per_character": 2.5, "gradient_norm": None, "layers": [[None, None], [2.5, 3.25]]}
    for step in (1, 2):
        writer = MetricsWriter(folder)  # opened anew: appends
        writer.write("train", step, values)
        writer.close()
    assert read_metrics(folder, "train") == [{"kind": "train", "step": step, **values} for step in (1, 2)]
    assert list(folder.tensorboard.glob("events.*"))


def test_a_record_is_on_disk_at_once(folder: RunFolder) -> None:
    writer = MetricsWriter(folder)
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


def test_a_full_disk_is_told(folder: RunFolder) -> None:
    writer = MetricsWriter(folder)
    writer.write("train", 1, {"bits_per_character": 2.0})
    with writer._file, Path("/dev/full").open("a", encoding="utf-8") as full:
        writer._file = full
        with pytest.raises(PlatformError, match="cannot be written: No space left on device; free space, then go on"):
            writer.write("train", 2, {"x": 2})
        with pytest.raises(PlatformError, match="cannot be written"):
            writer.close()
    writer._board.close()
    assert [entry["step"] for entry in read_metrics(folder, "train")] == [1]
