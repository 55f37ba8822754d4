"""After which validation training ends, also where the run was resumed in between."""

import json
import math

import pytest

from megachar.training.early_stopping import EarlyStopping


def ends_after(patience: int, figures: list[float]) -> int | None:
    """Number of the validation that ends training."""
    stopping = EarlyStopping(patience)
    for number, bits in enumerate(figures, start=1):
        stopping.count(bits)
        if stopping.stops:
            return number
    return None


@pytest.mark.parametrize(
    ("patience", "figures", "end"),
    [
        (2, [3.0, 2.0, 2.5, 1.9, 1.95, 1.9], 6),  # equal is no new lowest
        (1, [3.0, 2.0, 2.5], 3),
        (2, [math.nan, math.nan], 2),
        (2, [math.nan, 3.0, math.inf, 2.9, 2.8], None),
        (0, [1.0] * 50, None),
    ],
)
def test_when_training_ends(patience: int, figures: list[float], end: int | None) -> None:
    assert ends_after(patience, figures) == end


@pytest.mark.parametrize("before", range(5))
def test_a_resumed_run_ends_where_the_other_does(before: int) -> None:
    figures = [3.0, 2.0, 2.5, 2.6, 2.7]
    first, second = EarlyStopping(3), EarlyStopping(3)
    for bits in figures[:before]:
        first.count(bits)
    second.restore(json.loads(json.dumps(first.state)))
    for bits in figures[before:]:
        assert not second.stops
        second.count(bits)
    assert second.stops
