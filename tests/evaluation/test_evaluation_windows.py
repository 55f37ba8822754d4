"""Windows of an evaluation score every character but the first exactly once."""

import numpy as np
import pytest

from megachar.base.errors import ConfigError
from megachar.evaluation.windows import WindowPlan, default_stride


def scored(plan: WindowPlan) -> list[int]:
    """Places in the text of all scored characters, window by window."""
    places: list[int] = []
    for k in range(len(plan)):
        window = plan.window(k)
        end = window.start + window.length + 1
        assert window.start >= 0
        assert end <= plan.num_characters
        places += range(end - window.num_scored, end)
    return places


def test_each_character_but_the_first_is_scored_once(rng: np.random.Generator) -> None:
    for _ in range(300):
        context, num_characters = int(rng.integers(1, 40)), int(rng.integers(1, 200))
        plan = WindowPlan(num_characters, context, int(rng.integers(1, context + 1)))
        assert scored(plan) == list(range(1, num_characters)), plan


def test_every_later_window_is_full_and_scores_its_end() -> None:
    plan = WindowPlan(num_characters=100, context=30, stride=12)
    windows = [plan.window(k) for k in range(len(plan))]
    assert [w.start for w in windows] == [0, 12, 24, 36, 48, 60, 69]  # the last ends with the text
    assert {w.length for w in windows} == {30}
    assert [w.num_scored for w in windows] == [30, 12, 12, 12, 12, 12, 9]


@pytest.mark.parametrize(("num_characters", "expected"), [
    (1, []),
    (2, [(0, 1, 1)]),
    (30, [(0, 29, 29)]),
    (31, [(0, 30, 30)]),
    (32, [(0, 30, 30), (1, 30, 1)]),
])  # fmt: skip
def test_short_texts(num_characters: int, expected: list[tuple[int, int, int]]) -> None:
    plan = WindowPlan(num_characters, context=30, stride=7)
    assert [(w.start, w.length, w.num_scored) for w in map(plan.window, range(len(plan)))] == expected


def test_batches_hold_all_windows_in_order() -> None:
    plan = WindowPlan(num_characters=101, context=10, stride=3)
    batches = [plan.batch(j, 4) for j in range(plan.num_batches(4))]
    assert [w for batch in batches for w in batch] == [plan.window(k) for k in range(len(plan))]
    assert {len(batch) for batch in batches[:-1]} == {4}


def test_strides_out_of_range() -> None:
    with pytest.raises(ConfigError, match=r"stride = 0 does not move the window; set 1 .* up to 64"):
        WindowPlan(100, 64, 0)
    with pytest.raises(ConfigError, match=r"stride = 65 is more than the model's context of 64 .*set at most 64"):
        WindowPlan(100, 64, 65)


def test_default_stride() -> None:
    assert [default_stride(t) for t in (1, 7, 8, 512)] == [1, 1, 1, 64]
