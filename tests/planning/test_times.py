"""Times by part: they add up, agree with the schedule turn by turn, and go in the right direction."""

import random
from itertools import pairwise

import numpy as np
import pytest

from megachar.config.experiment import Experiment
from megachar.config.loading import load_experiment
from megachar.losses.auxiliary import layer_weights
from megachar.planning.cluster import Cluster
from megachar.planning.devices import Device, load_device
from megachar.planning.fitting import Timed, fit_device, predicted_seconds
from megachar.planning.planner import Planner
from megachar.planning.schedule import run_schedule
from megachar.planning.stages import timetable
from megachar.planning.times import StepTimes, pass_through
from tests.planning.layouts import layout_of


def times_of(experiment: Experiment, *layout: object, device: str = "h100") -> StepTimes:
    cluster = Cluster.of(load_device(device), 64)
    return Planner(experiment, cluster).times(layout_of(experiment, *layout))  # type: ignore[arg-type]


def test_the_formula_is_what_the_schedule_takes(draw: random.Random) -> None:
    for _ in range(60):
        stages, count, ratio = draw.randint(1, 9), draw.randint(1, 20), draw.uniform(1, 4)
        for least, exact in ((0.9, True), (0.3, False)):
            forward = [draw.uniform(least, 1.1) for _ in range(stages)]
            took = max(one.end for one in run_schedule(forward, [ratio * one for one in forward], 0.0, count))
            seconds, deciding = pass_through((1 + ratio) * np.array([forward]), count)
            assert seconds[0] <= took * (1 + 1e-9)
            assert 0 <= deciding[0] < stages
            if exact:
                assert seconds[0] == pytest.approx(took)


def test_equal_stages_take_the_textbooks_time() -> None:
    assert pass_through(np.full((1, 8), 3.0), 8)[0].tolist() == [3.0 * (8 + 8 - 1)]


def test_every_stage_passes_every_micro_batch_forward_before_it_passes_it_backward() -> None:
    passes = run_schedule([1.0] * 3, [2.0] * 3, 0.1, 4)
    assert len(passes) == 2 * 3 * 4
    for stage in range(3):
        own = [one for one in passes if one.stage == stage]
        assert all(one.end <= other.start for one, other in pairwise(own))
        ends = {one.micro_batch: one.end for one in own if one.forward}
        assert all(one.start >= ends[one.micro_batch] for one in own if not one.forward)


def test_parts_and_moments(t64: Experiment) -> None:
    times = times_of(t64, 4, 2, 2, 4, "bf16_zero1")
    for moment in (times.start, times.half):
        assert moment.total == pytest.approx(sum(vars(moment).values()))
        assert min(vars(moment).values()) >= 0
        assert moment.tensor > 0
        assert moment.bubble > 0
    assert times.half.total < times.average < times.start.total


def test_directions(t64: Experiment) -> None:
    one = times_of(t64, 1, 1, 1, 8, "bf16_zero1")
    assert one.start.bubble == one.start.transfers == one.start.tensor == one.start.zero == 0
    assert times_of(t64, 1, 1, 4, 8, "bf16_zero1").average < one.average
    assert times_of(t64, 1, 1, 1, 8, "bf16_zero1", 1).average > one.average
    assert times_of(t64, 1, 1, 1, 8, "bf16_zero1", 1) == times_of(t64, 1, 1, 1, 8, "bf16_zero1", 8)
    few, many = (times_of(t64, 8, 1, 1, micro, "bf16_zero1").start for micro in (8, 4))
    assert few.bubble / few.total > many.bubble / many.total
    inside, across = (times_of(t64, 1, 1, data, 1, "bf16_zero1").start.zero for data in (8, 16))
    assert across > 3 * inside


def test_when_layers_fall_silent() -> None:
    for overrides in ([], ["auxiliary.interval_steps=7.5"], ["auxiliary.intermediate_layers=false"]):
        experiment = load_experiment("small", ["training.total_steps=90", "schedule.warmup_steps=1", *overrides])
        auxiliary = experiment.auxiliary.model_copy(update={"intermediate_layers": overrides != [] or True})
        experiment = experiment.model_copy(update={"auxiliary": auxiliary})
        spans = timetable(experiment)
        borders = (np.cumsum(spans.shares) * 90).round().astype(int)
        for step in range(90):
            weights = layer_weights(auxiliary, experiment.model.num_layers, 90, step)
            row = spans.speaking[int(np.searchsorted(borders, step, side="right"))]
            assert row[:-1].tolist() == [float(weight > 0) for weight in weights[:-1]]
            if step == 45:
                assert row.tolist() == spans.speaking[spans.half].tolist()
        assert spans.shares.sum() == pytest.approx(1)


def test_a_device_is_found_again_from_its_times(t64: Experiment) -> None:
    start = load_device("cpu")
    link = start.link.model_copy(update={"bytes_per_second": 3e9})
    figures = {"moved_bytes_per_second": 7e9, "step_seconds": 5e-3, "link": link, "product_flops": {"fp32": 40e9}}
    truth: Device = start.model_copy(update=figures)
    small = load_experiment("quickstart", ["model.num_heads=2", "model.local_offsets=[]"])
    cases = []
    for pipe, tensor, micro_size in ((1, 1, 4), (1, 1, 1), (1, 2, 4), (1, 2, 1), (2, 1, 4), (2, 1, 1)):
        cases.append(layout_of(small, pipe, tensor, 1, micro_size, "fp32").applied_to(small))
    timed = [Timed(case, predicted_seconds(case, truth)) for case in cases]
    found = fit_device(start, timed)
    for case in cases:
        assert predicted_seconds(case, found) == pytest.approx(predicted_seconds(case, truth), rel=0.05)
