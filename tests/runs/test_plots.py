"""Pictures of a run are drawn from any records, and drawn anew."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image

from megachar.config.loading import load_experiment, save_experiment
from megachar.runs.folder import RunFolder
from megachar.runs.plots import plot_run
from tests.config.conftest import BASE

TOTAL_STEPS = 400


def layers_at(step: int, num_layers: int, num_targets: int) -> list[list[float | None]]:
    """Falling losses; the lower layers fall silent as in training."""
    silent = step * 2 * num_layers // TOTAL_STEPS
    return [[None if layer < silent and layer < num_layers - 1 else 8.0 - step / 100 + target + 0.1 * layer
             for target in range(num_targets)] for layer in range(num_layers)]  # fmt: skip


def write_run(folder: Path, num_layers: int = 12, num_targets: int = 2, validation: bool = True) -> RunFolder:
    """A run that was killed at step 200 and resumed at step 100, and is being written to."""
    overrides = [f"model.num_layers={num_layers}", f"auxiliary.num_targets={num_targets}", "parallel.pipe=1"]
    run = RunFolder(folder)
    save_experiment(load_experiment(BASE, overrides), run.experiment_file)
    records: list[dict[str, Any]] = []
    for step in [*range(10, 201, 10), *range(110, 401, 10)]:
        layers = layers_at(step, num_layers, num_targets)
        values = {"bits_per_character": layers[-1][0], "layers": layers}
        records.append({"kind": "train", "step": step, "learning_rate": 1e-3, "gradient_norm": None, **values})
        if validation and step % 100 == 0:
            records.append({"kind": "validation", "step": step, **values})
    text = "".join(json.dumps(record) + "\n" for record in records)
    run.metrics_file.write_text(text + '{"kind": "train", "step": 410, "bi')
    return run


def check_picture(path: Path) -> None:
    """A PNG of some hundred pixels a side that is not blank."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    assert 10_000 < path.stat().st_size < 1_000_000
    pixels = image.imread(path)
    assert all(400 < side < 4000 for side in pixels.shape[:2])
    assert 0.5 < float(np.mean(pixels)) < 0.99


@pytest.mark.parametrize("num_layers", [1, 12])
@pytest.mark.parametrize("num_targets", [1, 3])
def test_pictures(tmp_path: Path, num_layers: int, num_targets: int) -> None:
    run = write_run(tmp_path, num_layers, num_targets, validation=num_layers > 1)
    paths = plot_run(run)
    auxiliary = ["layers.png"] if num_layers * num_targets > 1 else []
    assert paths == [run.plots / name for name in ("loss.png", *auxiliary)]
    for path in paths:
        check_picture(path)


def test_pictures_for_print(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    paths = plot_run(run, "pdf")
    assert [path.name for path in paths] == ["loss.pdf", "layers.pdf"]
    assert all(path.read_bytes().startswith(b"%PDF") for path in paths)
    assert sorted(path.name for path in run.plots.iterdir()) == ["layers.pdf", "loss.pdf"]


def test_names_that_no_font_has(tmp_path: Path) -> None:
    """A run's name may be no UTF-8, and have what a picture would take for a formula."""
    folder = tmp_path / os.fsdecode(b"caf\xe9 $^$")
    folder.mkdir()
    for path in plot_run(write_run(folder)):
        check_picture(path)


def test_pictures_are_drawn_anew(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    first = [path.read_bytes() for path in plot_run(run)]
    lines = run.metrics_file.read_text().splitlines(keepends=True)
    run.metrics_file.write_text("".join(lines[:12]))
    second = [path.read_bytes() for path in plot_run(run)]
    assert all(one != other for one, other in zip(first, second, strict=True))


def test_a_single_record(tmp_path: Path) -> None:
    run = write_run(tmp_path, num_layers=2)
    run.metrics_file.write_text(run.metrics_file.read_text().splitlines(keepends=True)[0])
    assert all(path.is_file() for path in plot_run(run))


def test_nothing_to_draw(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    run.metrics_file.unlink()
    assert plot_run(run) == []
    assert not run.plots.exists()
