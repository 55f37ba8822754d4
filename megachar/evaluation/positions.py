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

from megachar.evaluation.result import replace_file
from megachar.evaluation.windows import WindowPlan
from megachar.units import NATS_PER_BIT

Int64 = npt.NDArray[np.int64]
STREAM_LENGTH = 1024
"""Of a recurrent model: characters after which the state is zero again."""
SINGLE_POSITIONS, BINS_PER_OCTAVE = 64, 4
"""Positions that are a bin each, and bins for every doubling beyond them."""


@dataclass(frozen=True)
class Bin:
    """Characters with `first` to `last` characters before them."""

    first: int
    last: int
    count: int
    bits: float
    """Their mean."""
    standard_error: float
    """Of the mean, as if they were independent; NaN for a single one."""


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


def mean_by_position(nats: npt.NDArray[np.float64], plan: WindowPlan) -> list[Bin]:
    """Bins of the characters of a text that was scored by the plan's windows; `nats` (N,) of all of them."""
    positions, bits = positions_of(plan), nats[1:] / NATS_PER_BIT
    starts = bin_starts(plan.context)
    numbers = np.searchsorted(starts, positions, side="right") - 1
    bins = []
    for k, (first, end) in enumerate(zip(starts, [*starts[1:], plan.context + 1], strict=True)):
        inside = bits[numbers == k]
        if inside.size:
            error = float(inside.std(ddof=1) / math.sqrt(inside.size)) if inside.size > 1 else math.nan
            bins.append(Bin(int(first), int(end) - 1, inside.size, float(inside.mean()), error))
    return bins


def write_csv(path: Path, bins: Sequence[Bin]) -> None:
    """One row a bin."""

    def write(file: Path) -> None:
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, [field.name for field in fields(Bin)])
            writer.writeheader()
            writer.writerows(asdict(entry) for entry in bins)

    replace_file(path, write)


def plot(path: Path, bins: Sequence[Bin], title: str, since: str) -> None:
    """A picture, as PNG: the means, with a band of two standard errors. `since`: what the position is counted from."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    centers = np.array([math.sqrt(entry.first * entry.last) for entry in bins])
    bits, errors = (np.array([getattr(entry, name) for entry in bins]) for name in ("bits", "standard_error"))
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.fill_between(centers, bits - 2 * errors, bits + 2 * errors, alpha=0.25, linewidth=0)
    axes.plot(centers, bits, linewidth=1.2)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(f"characters since {since}")
    axes.set_ylabel("bits per character (band: two standard errors)")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    replace_file(path, lambda file: figure.savefig(file, dpi=120, format="png"))
    plt.close(figure)


def how_to_read(bins: Sequence[Bin], since: str) -> str:
    """One line on what the picture says: what the second half of the context is worth."""
    line = f"how to read it: bits of characters by how many are before them since {since}"
    longest = bins[-1].last
    far = [entry for entry in bins if entry.first > longest // 2]
    near = [entry for entry in bins if longest // 4 < entry.first and entry.last <= longest // 2]
    if not near:
        return line
    (far_bits, far_error), (near_bits, near_error) = _together(far), _together(near)
    gain, error = near_bits - far_bits, math.hypot(far_error, near_error)
    return (
        f"{line}; with {far[0].first:,} to {longest:,} of them they cost {abs(gain):.3f} bits "
        f"{'less' if gain >= 0 else 'more'} (+- {2 * error:.3f}) than with {near[0].first:,} to {near[-1].last:,}: "
        "while that falls clearly, more context would pay"
    )


def _together(bins: Sequence[Bin]) -> tuple[float, float]:
    """Mean of the characters of several bins, and its standard error."""
    count = sum(entry.count for entry in bins)
    mean = math.fsum(entry.count * entry.bits for entry in bins) / count
    variance = math.fsum((entry.count * entry.standard_error) ** 2 for entry in bins if entry.count > 1) / count**2
    return mean, math.sqrt(variance)
