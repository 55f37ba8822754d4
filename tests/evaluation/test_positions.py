import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megachar.evaluation.positions import Bin, bin_starts, how_to_read, mean_by_position, plot, positions_of, write_csv
from megachar.evaluation.windows import WindowPlan


def test_positions_are_characters_of_the_window_before(rng: np.random.Generator) -> None:
    for _ in range(50):
        context, size = int(rng.integers(1, 30)), int(rng.integers(1, 100))
        plan = WindowPlan(size, context, context)
        found = positions_of(plan).tolist()
        assert found[:context] == list(range(1, min(context, size - 1) + 1))
        starts = list(range(0, size - 1, context))
        if size - 1 > context:
            starts[-1] = size - 1 - context  # the last window ends with the text
        owners = [max(k for k in range(len(starts)) if k == 0 or place > k * context) for place in range(1, size)]
        assert found == [place - starts[k] for place, k in zip(range(1, size), owners, strict=True)]


def test_bins_are_single_and_then_even_in_the_logarithm() -> None:
    assert bin_starts(5).tolist() == [1, 2, 3, 4, 5]
    assert bin_starts(64).tolist() == list(range(1, 65))
    assert bin_starts(300)[64:].tolist() == [65, 77, 91, 108, 129, 153, 182, 216, 257]
    assert bin_starts(1024)[-4:].tolist() == [513, 609, 725, 862]


def test_means_and_errors_of_bins(rng: np.random.Generator, tmp_path: Path) -> None:
    nats, plan = rng.exponential(size=2000), WindowPlan(2000, 200, 200)
    by_position: dict[int, list[float]] = {}
    for value, position in zip(nats[1:] / math.log(2), positions_of(plan), strict=True):
        by_position.setdefault(int(position), []).append(value)
    bins = mean_by_position(nats, plan)
    assert bins[-1].last == 200
    for entry in bins:
        values = [value for position in range(entry.first, entry.last + 1) for value in by_position[position]]
        assert entry.count == len(values)
        assert entry.bits == pytest.approx(np.mean(values))
        assert entry.standard_error == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)))
    write_csv(tmp_path / "a.csv", bins)
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0] == "first,last,count,bits,standard_error"
    assert len(lines) == len(bins) + 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_what_the_second_half_of_the_context_is_worth() -> None:
    bins = [Bin(first, last, count, bits, error) for first, last, count, bits, error in (
        (1, 20, 400, 5.0, 0.1), (21, 30, 300, 3.0, 0.1), (31, 40, 100, 2.0, 0.1), (41, 60, 100, 2.0, 0.2),
        (61, 80, 100, 1.0, 0.2),
    )]  # fmt: skip
    error = math.hypot(math.hypot(0.2, 0.2) / 2, math.hypot(0.3, 0.1) / 4)
    assert (
        f"with 41 to 80 of them they cost 1.250 bits less (+- {2 * error:.3f}) than with 21 to 40: while"
        in how_to_read(bins, "the state was zero")
    )
    upside_down = [replace(entry, bits=-entry.bits) for entry in bins]
    assert "cost 1.250 bits more" in how_to_read(upside_down, "the state was zero")


@pytest.mark.parametrize("size", [2, 3, 4])
def test_short_texts(size: int, tmp_path: Path) -> None:
    bins = mean_by_position(np.ones(size), WindowPlan(size, size - 1, size - 1))
    assert len(bins) == size - 1
    assert math.isnan(bins[0].standard_error)
    plot(tmp_path / "a.png", bins, "short", "the window began")
    assert how_to_read(bins, "the window began")
