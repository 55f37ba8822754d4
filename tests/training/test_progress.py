"""What a run says of its time, text and operations so far."""

import time
from typing import Any

import pytest

from megachar.config.experiment import Experiment
from megachar.families.counting import step_flops
from megachar.losses.auxiliary import layer_weights
from megachar.training.progress import Progress, flops_of_steps
from tests.runs.checkpoints_by_hand import small

DEEP = ("model.num_layers=5", "training.total_steps=37", "auxiliary.intermediate_layers=true")


def progress_after(experiment: Experiment, steps: range, state: dict[str, Any] | None = None) -> Progress:
    model, auxiliary = experiment.model, experiment.auxiliary
    num_windows, total = experiment.batch.global_size, experiment.training.total_steps
    progress = Progress(model.window_length, text_size=1000)
    progress.continue_from(state or {}, flops_of_steps(model, auxiliary, num_windows, total, steps.start))
    for step in steps:
        predicting = sum(weight > 0 for weight in layer_weights(auxiliary, model.num_layers, total, step))
        progress.count(step_flops(model, auxiliary, num_windows, predicting))
    return progress


def test_a_record_says_how_much_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = small()
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    progress = progress_after(experiment, range(0), {"seconds": 7.25, "flops": 3.0})
    monkeypatch.setattr(time, "monotonic", lambda: 102.5)
    characters = 50 * experiment.model.window_length
    expected = {"seconds": 9.75, "characters": characters, "epoch": characters / 1000, "flops": 3.0}
    assert progress.record(50) == expected
    assert progress.state == {"seconds": 9.75, "flops": 3.0}


@pytest.mark.parametrize("stop", [0, 1, 11, 37])
def test_operations_go_on_as_if_the_run_had_never_stopped(stop: int) -> None:
    """Bit by bit; without a count, from the layers that had spoken, which fall silent one after the other."""
    experiment = small(*DEEP)
    whole = progress_after(experiment, range(37)).record(1)["flops"]
    before = progress_after(experiment, range(stop))
    assert progress_after(experiment, range(stop, 37), before.state).record(1)["flops"] == whole
    found = progress_after(experiment, range(stop, 37), {}).record(1)["flops"]
    assert found == pytest.approx(whole, rel=1e-12)


def test_silent_layers_cost_no_operations() -> None:
    experiment = small(*DEEP)
    flops = [progress_after(experiment, range(step, step + 1), {"flops": 0.0}).record(1)["flops"] for step in (0, 36)]
    targets, length = experiment.auxiliary.num_targets, experiment.model.window_length
    classifier = 3 * 2 * experiment.model.width * experiment.model.vocabulary_size  # type: ignore[union-attr]
    positions = length if experiment.auxiliary.multiple_positions else 1
    assert flops[0] - flops[1] == pytest.approx(4 * targets * classifier * positions * experiment.batch.global_size)
