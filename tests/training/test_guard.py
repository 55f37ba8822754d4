"""Which steps are bad, how a row of them ends, and what a checkpoint keeps of it."""

import json
import math
from typing import Any

import numpy as np
import pytest

from megachar.base.errors import DivergenceError
from megachar.config.sections.training import GuardConfig
from megachar.parallel.engine import StepFigures
from megachar.training.guard import BadStep, Guard
from tests.draws import fresh_rng


def feed(guard: Guard, *figures: tuple[float, float], first: int = 1) -> list[BadStep | None]:
    """Judge and review steps of these losses and norms, as the loop does."""
    found = []
    for step, (loss, norm) in enumerate(figures, start=first):
        guard.accept(StepFigures(loss, norm))
        found.append(guard.review(step))
    return found


def warmed(**config: Any) -> Guard:
    """A guard that has seen a window of losses around 1 and norms around 2."""
    guard = Guard(GuardConfig(window=5, **config))
    assert feed(guard, *[(1 + 0.01 * i, 2 + 0.1 * i) for i in (-2, 2, 0, -1, 1)], first=-4) == [None] * 5
    return guard


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_bad_from_the_first_step(value: float) -> None:
    guard = Guard(GuardConfig(spike_deviations=0))
    loss, norm = feed(guard, (value, 1.0), (1.0, value))
    assert loss is not None
    assert loss.reason == f"the loss is {value}"
    assert norm is not None
    assert norm.reason == f"the gradient norm is {value}"


def test_suspects_are_named() -> None:
    guard = Guard(GuardConfig())
    guard.accept(StepFigures(math.nan, math.inf, ("rank 3 of node1", "rank 5 of node2")))
    bad = guard.review(1)
    assert bad is not None
    assert bad.reason == "the loss is nan (seen on rank 3 of node1, rank 5 of node2)"


def test_a_spike_is_far_above_the_median() -> None:
    """The deviation is 1.4826 x 0.01 for the losses: ten of them are less than a fifth of the median, which decides."""
    limit = 1.2
    below, above = feed(warmed(), (limit - 1e-6, 2.0)), feed(warmed(), (limit + 1e-6, 2.0))
    assert below == [None]
    assert above[0] is not None
    assert above[0].reason == "the loss is 1.2, above 1.2; the median of the 5 good steps before is 1"
    limit = 2 + 10 * 1.4826 * 0.1
    assert feed(warmed(), (1.0, limit - 1e-6)) == [None]
    [norm] = feed(warmed(), (1.0, limit + 1e-6))
    assert norm is not None
    assert norm.reason.startswith("the gradient norm is 3.483, above 3.483; the median of the 5 good steps")


def test_spikes_need_a_full_window_and_can_be_off() -> None:
    assert feed(Guard(GuardConfig(window=5)), *[(1.0, 1.0)] * 4, (1e6, 1e6)) == [None] * 5
    assert feed(warmed(spike_deviations=0), (1e6, 1e6)) == [None]
    assert feed(warmed(), (0.0, 0.0)) == [None]  # a fall is none


def test_bad_steps_do_not_move_the_median() -> None:
    guard = warmed(max_consecutive=99)
    assert all(feed(guard, *[(50.0, 2.0)] * 20))
    assert feed(guard, (1.0, 2.0)) == [None]


def test_noise_is_no_spike() -> None:
    """Twenty thousand steps of a falling loss and of norms that spread by a tenth.

    Of norms that spread by a fifth, one such run in two hundred would have a spike, as it should.
    """
    random = fresh_rng()
    steps = np.arange(20_000)
    losses = 1 + 2 * np.exp(-steps / 3000) + random.normal(0, 0.05, len(steps))
    norms = np.exp(random.normal(0, 0.1, len(steps)))
    guard = Guard(GuardConfig())
    found = [bad for bad in feed(guard, *zip(losses, norms, strict=True)) if bad]
    assert found == []


def test_a_row_of_bad_steps_stops_training() -> None:
    guard = warmed(max_consecutive=3)
    first, second, good, third, fourth = feed(guard, *[(math.nan, 1.0)] * 2, (1.0, 2.0), *[(math.nan, 1.0)] * 2)
    assert good is None
    assert [bad.consecutive for bad in (first, second, third, fourth) if bad] == [1, 2, 1, 2]
    with pytest.raises(DivergenceError, match=r"^3 bad steps in a row, the last at step 6: the loss is nan; lower"):
        feed(guard, (math.nan, 1.0), first=6)


def test_the_way_back_to_a_bad_step_is_no_progress() -> None:
    """Good steps after a rollback end the row only once they are past where it began."""
    guard = Guard(GuardConfig(max_consecutive=2))
    saved = guard.state
    feed(guard, *[(1.0, 1.0)] * 9, (math.nan, 1.0))
    guard.go_back(saved, first=4, last=10)
    assert feed(guard, *[(1.0, 1.0)] * 5, first=5) == [None] * 5
    with pytest.raises(DivergenceError, match="2 bad steps in a row, the last at step 10"):
        feed(guard, (math.nan, 1.0), first=10)
    guard = Guard(GuardConfig(max_consecutive=2))
    feed(guard, (math.nan, 1.0), first=10)
    guard.go_back(saved, first=4, last=10)
    feed(guard, *[(1.0, 1.0)] * 6, first=5)
    [bad] = feed(guard, (math.nan, 1.0), first=11)
    assert bad is not None
    assert bad.consecutive == 1


def test_a_rollback_goes_past_all_batches_since_the_checkpoint() -> None:
    """Steps count from 0 here: back before step 4, the next batch is the one after step 9's; and again after 6."""
    guard = Guard(GuardConfig())
    guard.go_back(guard.state, first=4, last=10)
    assert 4 + guard.skipped_batches == 10
    guard.go_back(guard.state, first=4, last=7)
    assert 4 + guard.skipped_batches == 13


def test_state_goes_through_json_to_the_same_decisions() -> None:
    random = fresh_rng()
    figures = [(float(loss), float(norm)) for loss, norm in random.lognormal(0, 0.8, (60, 2))]
    config = GuardConfig(window=10, spike_deviations=2, max_consecutive=99)
    whole, first, second = Guard(config), Guard(config), Guard(config)
    expected = feed(whole, *figures)
    assert any(expected)
    cut = int(random.integers(1, 59))
    feed(first, *figures[:cut])
    second.restore(json.loads(json.dumps(first.state)))
    assert feed(second, *figures[cut:], first=cut + 1) == expected[cut:]
    assert second.state == whole.state


def test_a_checkpoint_without_guard_state_starts_afresh() -> None:
    guard = Guard(GuardConfig())
    guard.restore({})
    assert guard.state == Guard(GuardConfig()).state
