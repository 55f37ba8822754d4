"""The learning rate at every step: warm-up and each shape, from its first step to its last."""

import itertools
import math
import random

import pytest

from megachar.optimizers.schedules import ScheduleConfig, first_cooldown_step, learning_rate


def rates(schedule: ScheduleConfig, total_steps: int, peak: float = 1.0) -> list[float]:
    return [learning_rate(schedule, peak, total_steps, step) for step in range(total_steps)]


def test_the_papers_is_constant() -> None:
    assert rates(ScheduleConfig(), 100, peak=0.003) == [0.003] * 100


@pytest.mark.parametrize("shape", ["constant", "cosine", "linear", "wsd"])
def test_warm_up(shape: str) -> None:
    """The first step already learns; the last of the warm-up and the one after it have the peak rate."""
    schedule = ScheduleConfig.model_validate({"shape": shape, "warmup_steps": 4, "final_fraction": 0.1})
    values = rates(schedule, 20, peak=2.0)
    assert values[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    assert values[5] == 2.0 if shape in ("constant", "wsd") else values[5] < 2.0


@pytest.mark.parametrize("final_fraction", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", ["cosine", "linear"])
@pytest.mark.parametrize("warmup_steps", [0, 7])
def test_ends(shape: str, final_fraction: float, warmup_steps: int) -> None:
    """From the peak down to its final fraction at the very last step, without ever rising."""
    schedule = ScheduleConfig.model_validate(
        {"shape": shape, "warmup_steps": warmup_steps, "final_fraction": final_fraction}
    )
    values = rates(schedule, 50, peak=3.0)
    assert values[warmup_steps] == pytest.approx(3.0)
    assert values[-1] == pytest.approx(3.0 * final_fraction, abs=1e-12)
    falling = values[warmup_steps:]
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(falling))


def test_linear_is_a_straight_line() -> None:
    values = rates(ScheduleConfig(shape="linear", final_fraction=0.2), 5)
    assert values == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_cosine_is_half_a_period() -> None:
    values = rates(ScheduleConfig(shape="cosine", final_fraction=0.2), 5)
    expected = [0.6 + 0.4 * math.cos(math.pi * quarter / 4) for quarter in range(5)]
    assert values == pytest.approx(expected)


def test_cooldown() -> None:
    """As 1 - sqrt(share done), from the first of the last tenth to the last step of all; before, it is constant."""
    values = rates(
        ScheduleConfig(shape="wsd", warmup_steps=3, cooldown_fraction=0.1, final_fraction=0.2), 100, peak=3.0
    )
    assert values[3:91] == [3.0] * 88
    assert values[91:] == pytest.approx([3 * (0.2 + 0.8 * (1 - math.sqrt(done / 9))) for done in range(1, 10)])
    assert values[-1] == pytest.approx(0.6)


def test_runs_of_all_lengths_share_a_trunk() -> None:
    """Bit by bit, up to where the shorter one cools down."""
    schedule = ScheduleConfig(shape="wsd", warmup_steps=5, cooldown_fraction=0.3, final_fraction=0.1)
    long = rates(schedule, 500, peak=0.0123)
    for total in (20, 77, 300):
        first = first_cooldown_step(schedule, total)
        assert rates(schedule, total, peak=0.0123)[: first + 1] == long[: first + 1]
        assert rates(schedule, total, peak=0.0123)[first + 1] < long[first + 1]


@pytest.mark.parametrize("shape", ["constant", "cosine", "linear", "wsd"])
@pytest.mark.parametrize(("total_steps", "warmup_steps"), [(1, 0), (2, 0), (2, 1), (5, 4)])
def test_short_runs(shape: str, total_steps: int, warmup_steps: int) -> None:
    schedule = ScheduleConfig.model_validate({"shape": shape, "warmup_steps": warmup_steps})
    values = rates(schedule, total_steps)
    assert values[warmup_steps] == 1.0
    assert all(0 <= value <= 1 for value in values)


def test_scales_with_the_peak() -> None:
    seed = random.randrange(2**32)
    draw = random.Random(seed)
    shape, peak, total = draw.choice(["constant", "cosine", "linear"]), draw.uniform(1e-6, 10), draw.randint(20, 90)
    schedule = ScheduleConfig.model_validate({"shape": shape, "warmup_steps": draw.randint(0, 9)})
    scaled = [peak * value for value in rates(schedule, total)]
    assert rates(schedule, total, peak) == pytest.approx(scaled, rel=1e-12), f"seed {seed}"
