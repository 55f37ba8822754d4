"""Loss by position: how well characters are predicted that have so many before them in the window, or since the state
was zero. Imports no torch.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megachar.base import mpl
from megachar.base.pictures import SERIES, PictureFormat, save, style
from megachar.base.units import NATS_PER_BIT
from megachar.evaluation.result import replace_file
from megachar.evaluation.windows import WindowPlan

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
STREAM_LENGTH = 1024
"""Of a recurrent model: characters after which the state is zero again."""
SINGLE_POSITIONS, BINS_PER_OCTAVE = 8, 4
"""Positions that are a bin each, and bins for every doubling beyond them: the mean of a single position further on is
noise, unless the text has a hundred thousand windows.
"""


@dataclass(frozen=True)
class Bin:
    """Characters with `first` to `last` characters before them."""

    first: int
    last: int
    count: int
    bits: float
    """Their mean."""
    standard_error: float
    """Of the mean, over windows (`ByPosition`); NaN where a single window has such characters."""


def positions_of(plan: WindowPlan) -> Int64:
    """How many characters of its window are before each character of the text but the first, (N - 1,)."""
    windows = (plan.window(k) for k in range(len(plan)))
    lengths = [np.arange(w.length - w.num_scored, w.length, dtype=np.int64) + 1 for w in windows]
    return np.concatenate(lengths) if lengths else np.empty(0, np.int64)


def bin_starts(longest: int) -> Int64:
    """First positions of bins that hold 1 to `longest`: one position each, then ever more, evenly in its logarithm."""
    octaves = math.log2(max(longest, SINGLE_POSITIONS) / SINGLE_POSITIONS)
    beyond = SINGLE_POSITIONS * 2.0 ** (np.arange(math.ceil(octaves * BINS_PER_OCTAVE)) / BINS_PER_OCTAVE)
    starts = np.concatenate([np.arange(1, SINGLE_POSITIONS + 1), np.floor(beyond).astype(np.int64) + 1])
    return np.unique(starts[starts <= longest])


@dataclass(frozen=True)
class _Mean:
    """Bits of some characters."""

    bits: float
    count: int
    influences: Float64
    """How far each window pulls the mean, (w,): they add up to 0."""
    num_windows: int
    """That have such characters."""

    @property
    def error(self) -> float:
        """See `ByPosition`; NaN for a single window."""
        return _error(self.influences, self.num_windows)


class ByPosition:
    """Losses of a text's characters by how many were before them in their window.

    Characters of one window are about the same things, and their losses go together. So a standard error is what
    drawing whole windows anew would give (the bootstrap of clusters), to first order and without drawing.
    """

    def __init__(self, nats: Float64, plan: WindowPlan) -> None:
        """`nats` (N,) of all characters, scored by the plan's windows."""
        self._bits, self._positions = nats[1:] / NATS_PER_BIT, positions_of(plan)
        self._windows = np.repeat(np.arange(len(plan)), [plan.window(k).num_scored for k in range(len(plan))])
        self._num_windows = len(plan)
        starts = bin_starts(plan.context).tolist()
        self.bins: list[Bin] = []
        for first, end in zip(starts, [*starts[1:], plan.context + 1], strict=True):
            mean = self._mean(first, end - 1)
            if mean.count:
                self.bins.append(Bin(first, end - 1, mean.count, mean.bits, mean.error))

    def how_to_read(self, since: str) -> str:
        """One line on what the picture says: what the second half of the context is worth."""
        line = f"how to read it: bits of characters by how many are before them since {since}"
        longest = self.bins[-1].last
        if longest < 2:
            return line
        near, far = (longest // 4 + 1, longest // 2), (longest // 2 + 1, longest)
        gain, error = self._difference(near, far)
        margin = f"(+- {2 * error:.3f})" if math.isfinite(error) else "(of one window: how surely, it cannot tell)"
        return (
            f"{line}; with {far[0]:,} to {far[1]:,} of them they cost {abs(gain):.3f} bits "
            f"{'less' if gain >= 0 else 'more'} {margin} than with {near[0]:,} to {near[1]:,}: "
            "while that falls clearly, more context would pay"
        )

    def _difference(self, one: tuple[int, int], other: tuple[int, int]) -> tuple[float, float]:
        """Mean bits at positions `one` less those at `other`, each first to last, and the error of that."""
        first, second = self._mean(*one), self._mean(*other)
        error = _error(first.influences - second.influences, min(first.num_windows, second.num_windows))
        return first.bits - second.bits, error

    def _mean(self, first: int, last: int) -> _Mean:
        inside = (self._positions >= first) & (self._positions <= last)
        windows = self._windows[inside]
        counts = np.bincount(windows, minlength=self._num_windows)
        sums = np.bincount(windows, self._bits[inside], minlength=self._num_windows)
        count = windows.size
        mean = float(sums.sum() / count) if count else math.nan
        return _Mean(mean, count, (sums - mean * counts) / max(count, 1), int(np.count_nonzero(counts)))


def _error(influences: Float64, num_windows: int) -> float:
    if num_windows < 2:
        return math.nan
    return math.sqrt(float(np.square(influences).sum()) * num_windows / (num_windows - 1))


def write_csv(path: Path, bins: Sequence[Bin]) -> None:
    """One row a bin."""

    def write(file: Path) -> None:
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, [field.name for field in fields(Bin)])
            writer.writeheader()
            writer.writerows(asdict(entry) for entry in bins)

    replace_file(path, write)


@style()
def plot(
    path: Path,
    bins: Sequence[Bin],
    title: str,
    since: str,
    unit: str = "character",
    picture_format: PictureFormat = "png",
) -> None:
    """A picture of the means, with bars of two standard errors.

    Args:
        path: of its file.
        bins: of the positions.
        title: above it.
        since: what the position is counted from.
        unit: what a position is counted in.
        picture_format: of the file.
    """
    centers = np.array([math.sqrt(entry.first * entry.last) for entry in bins])
    bits, errors = (np.array([getattr(entry, name) for entry in bins]) for name in ("bits", "standard_error"))
    figure = mpl.figure.Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.errorbar(centers, bits, 2 * errors, color=SERIES[0], fmt="o-", markersize=3, linewidth=1.2, elinewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()
    axes.set_xlabel(f"{unit}s since {since}")
    axes.set_ylabel(f"bits per {unit}")
    axes.set_title(title)
    binned = (
        f"from {SINGLE_POSITIONS + 1} {unit}s on of {BINS_PER_OCTAVE} bins to each doubling; "
        if (bins[-1].last > SINGLE_POSITIONS)
        else ""
    )
    figure.supxlabel(f"Points: means, {binned}bars: two standard errors.", fontsize="small")
    replace_file(path, lambda file: save(figure, file, picture_format))
