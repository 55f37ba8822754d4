"""Losses by position in the window: bins, means, and error bars that are those of drawing windows anew."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from megachar.evaluation.positions import ByPosition, bin_starts, plot, positions_of, write_csv
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
    assert bin_starts(8).tolist() == list(range(1, 9))
    assert bin_starts(64)[8:].tolist() == [9, 10, 12, 14, 17, 20, 23, 27, 33, 39, 46, 54]
    assert bin_starts(1024)[-4:].tolist() == [513, 609, 725, 862]


def test_means_and_errors_of_bins(rng: np.random.Generator, tmp_path: Path) -> None:
    nats, plan = rng.exponential(size=2000), WindowPlan(2000, 200, 200)
    by_position: dict[int, list[float]] = {}
    for value, position in zip(nats[1:] / math.log(2), positions_of(plan), strict=True):
        by_position.setdefault(int(position), []).append(value)
    bins = ByPosition(nats, plan).bins
    assert bins[-1].last == 200
    for entry in bins[:8]:  # single positions: of each window one character, all of them independent
        values = by_position[entry.first]
        assert entry.standard_error == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)))
    for entry in bins:
        values = [value for position in range(entry.first, entry.last + 1) for value in by_position[position]]
        assert entry.count == len(values)
        assert entry.bits == pytest.approx(np.mean(values))
    write_csv(tmp_path / "a.csv", bins)
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0] == "first,last,count,bits,standard_error"
    assert len(lines) == len(bins) + 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_errors_are_those_of_drawing_windows_anew(rng: np.random.Generator) -> None:
    """Windows that are easy or hard as a whole: errors over characters would be three times too small."""
    context, count = 128, 200
    plan = WindowPlan(count * context + 1, context, context)
    levels, later = rng.normal(3.0, 1.0, (count, 1)), rng.normal(-0.2, 0.2, (count, 1))
    bits = levels + rng.normal(0.0, 1.0, (count, context)) + later * (np.arange(context) >= context // 2)
    losses = ByPosition(np.concatenate([[0.0], bits.ravel()]) * math.log(2), plan)
    drawn = bits[rng.integers(count, size=(4000, count))].mean(1)  # (resamples, positions)
    for entry in losses.bins[::9]:
        expected = drawn[:, entry.first - 1 : entry.last].mean(1).std()
        assert entry.standard_error == pytest.approx(expected, rel=0.1)
    last = losses.bins[-1]
    assert last.standard_error > 3 * bits[:, last.first - 1 :].std() / math.sqrt(last.count)
    gains = drawn[:, 32:64].mean(1) - drawn[:, 64:].mean(1)  # of the same windows, whose levels cancel
    found = re.search(r"with 65 to 128 of them they cost (\S+) bits less \(\+- (\S+)\) than with 33 to 64: while",
                      losses.how_to_read("the state was zero"))  # fmt: skip
    assert found is not None
    assert float(found[1]) == pytest.approx(bits[:, 32:64].mean() - bits[:, 64:].mean(), abs=6e-4)
    assert float(found[2]) == pytest.approx(2 * gains.std(), rel=0.1)
    upside_down = ByPosition(np.concatenate([[0.0], -bits.ravel()]), plan)
    assert "bits more" in upside_down.how_to_read("the state was zero")


def test_one_window_tells_no_error() -> None:
    line = ByPosition(np.arange(101.0), WindowPlan(101, 100, 100)).how_to_read("the window began")
    assert "bits more (of one window: how surely, it cannot tell) than with 26 to 50" in line


@pytest.mark.parametrize("size", [2, 3, 4])
def test_short_texts(size: int, tmp_path: Path) -> None:
    losses = ByPosition(np.ones(size), WindowPlan(size, size - 1, size - 1))
    bins = losses.bins
    assert len(bins) == size - 1
    assert math.isnan(bins[0].standard_error)
    plot(tmp_path / "a.png", bins, "short", "the window began")
    assert losses.how_to_read("the window began")
