"""The histogram of a vocabulary, as a picture. matplotlib is imported where it is used: it takes a second."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

BARS_PER_ROW = 64
MAX_BARS = 512  # a larger vocabulary is drawn by rank
LABELLED_RANKS = 40

CLASSES = (
    ("letters", "tab:blue"),
    ("digits", "tab:orange"),
    ("whitespace", "tab:green"),
    ("punctuation", "tab:purple"),
    ("control characters", "tab:red"),
    ("beyond ASCII", "tab:brown"),
)
"""What a symbol may be, with its color."""

_NAMES = {b" ": "sp", b"\n": "\\n", b"\t": "\\t", b"\r": "\\r"}


def draw_histogram(counts: Int64, symbols: Sequence[bytes] | None, title: str, path: Path) -> Path:
    """Draw how often each token occurs to the PNG `path`, and return that.

    `counts` is (v,); `symbols` the text of each token, None where that is unknown.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure = _draw_bars(counts, symbols) if counts.size <= MAX_BARS else _draw_ranks(counts, symbols)
    figure.suptitle(title, fontsize=11, parse_math=False)  # a path may hold a $
    figure.savefig(path, dpi=120, format="png")
    plt.close(figure)
    return path


def label_of(token: int, symbols: Sequence[bytes] | None) -> str:
    """A short name for a token: its character, \\n and the like, or the hexadecimal digits of what is not printable."""
    if symbols is None:
        return str(token)
    symbol = symbols[token]
    if symbol in _NAMES:
        return _NAMES[symbol]
    try:
        text = symbol.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    return text.replace(" ", "␣") if text and text.isprintable() else symbol.hex()


def class_of(symbol: bytes) -> int:
    """Number in CLASSES of the symbol, by its first byte."""
    byte = symbol[:1]
    if not byte or byte[0] >= 0x80:
        return 5
    if byte.isalpha():
        return 0
    if byte.isdigit():
        return 1
    if byte in b" \t\n\r\v\f":
        return 2
    return 3 if 0x20 < byte[0] < 0x7F else 4


def _draw_bars(counts: Int64, symbols: Sequence[bytes] | None) -> Any:
    """A bar for each token, in rows; rows in which nothing occurs are left out."""
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    share = counts / counts.sum()
    firsts = [first for first in range(0, counts.size, BARS_PER_ROW) if counts[first : first + BARS_PER_ROW].any()]
    row = min(BARS_PER_ROW, counts.size)
    width, height = 0.8 + max(6.0, 0.206 * row), 1.0 + 2.0 * len(firsts)
    figure, panels = plt.subplots(len(firsts), 1, figsize=(width, height), squeeze=False, sharey=True)
    # In inches from each edge. A layout that is computed draws everything twice, which takes seconds.
    figure.subplots_adjust(
        left=0.7 / width, right=1 - 0.1 / width, top=1 - 0.45 / height, bottom=0.65 / height, hspace=0.22
    )
    bottom = 0.3 * share[share > 0].min()  # so that the rarest symbol has a bar
    classes = [class_of(symbol) for symbol in symbols] if symbols is not None else [0] * counts.size
    for first, axes in zip(firsts, panels[:, 0], strict=True):
        tokens = np.arange(first, min(first + BARS_PER_ROW, counts.size))
        heights = np.where(counts[tokens] > 0, share[tokens] - bottom, 0)
        colors = [CLASSES[classes[token]][1] for token in tokens]
        axes.bar(tokens, heights, bottom=bottom, width=0.85, color=colors)
        axes.set_yscale("log")
        axes.set_ylim(bottom, 1.0)
        axes.set_xlim(first - 0.8, first + row - 0.2)
        labels = [label_of(int(token), symbols) for token in tokens]
        axes.set_xticks(tokens, labels, fontsize=9, family="DejaVu Sans Mono", parse_math=False)
        for label, token in zip(axes.get_xticklabels(), tokens, strict=True):
            label.set_color("black" if counts[token] else "silver")
            if len(label.get_text()) > 1:
                label.set_fontsize(7)
        axes.set_axisbelow(True)
        axes.grid(axis="y", alpha=0.3)
        axes.tick_params(axis="x", length=0, pad=2)
        axes.set_ylabel("share")
    if symbols is not None:
        present = sorted({classes[token] for token in np.flatnonzero(counts)})
        handles = [Patch(color=CLASSES[number][1], label=CLASSES[number][0]) for number in present]
        figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False)
    return figure


def _draw_ranks(counts: Int64, symbols: Sequence[bytes] | None) -> Any:
    """The commonest tokens by name, and all of them by rank: a straight line there is Zipf's law."""
    from matplotlib import pyplot as plt

    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    share = counts[order] / counts.sum()
    figure, (top, all_ranks) = plt.subplots(2, 1, figsize=(14, 8), layout="constrained")
    shown = order[:LABELLED_RANKS]
    top.bar(np.arange(shown.size), share[: shown.size], color="tab:blue", width=0.85)
    labels = [label_of(int(token), symbols) for token in shown]
    top.set_xticks(np.arange(shown.size), labels, rotation=60, parse_math=False)
    top.set_ylabel("share")
    top.set_title(f"the {shown.size} commonest", fontsize=10)
    all_ranks.loglog(np.arange(1, order.size + 1), share, color="tab:blue")
    all_ranks.set_xlabel("rank")
    all_ranks.set_ylabel("share")
    all_ranks.set_title("all, by rank", fontsize=10)
    top.set_xlim(-0.8, shown.size - 0.2)
    for axes, which in ((top, "y"), (all_ranks, "both")):
        axes.set_axisbelow(True)
        axes.grid(axis=which, alpha=0.3)
    return figure
