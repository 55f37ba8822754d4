"""The histogram of a vocabulary, as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megachar.base import mpl
from megachar.base.pictures import SERIES, PictureFormat, save, style
from megachar.data.vocabulary import Int64

BARS_PER_ROW = 64
MAX_BARS = 512  # a larger vocabulary is drawn by rank
LABELLED_RANKS = 40

CLASSES = ("letters", "digits", "whitespace", "punctuation", "control characters", "beyond ASCII")
"""What a symbol may be; each has the color of the series of its number."""

_NAMES = {b" ": "sp", b"\n": "\\n", b"\t": "\\t", b"\r": "\\r"}


@style()
def draw_histogram(
    counts: Int64, symbols: Sequence[bytes] | None, title: str, path: Path, picture_format: PictureFormat = "png"
) -> Path:
    """Draw how often each token occurs to the file `path`, and return that.

    `counts` is (v,); `symbols` the text of each token, None where that is unknown.
    """
    figure = _draw_bars(counts, symbols) if counts.size <= MAX_BARS else _draw_ranks(counts, symbols)
    figure.suptitle(title, fontsize=11)
    return save(figure, path, picture_format)


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


def _draw_bars(counts: Int64, symbols: Sequence[bytes] | None) -> "mpl.figure.Figure":
    """A bar for each token, in rows; rows in which nothing occurs are left out."""
    share = counts / counts.sum()
    firsts = [first for first in range(0, counts.size, BARS_PER_ROW) if counts[first : first + BARS_PER_ROW].any()]
    row = min(BARS_PER_ROW, counts.size)
    width, height = 1.1 + max(6.0, 0.206 * row), 1.0 + 2.0 * len(firsts)
    figure = mpl.figure.Figure(figsize=(width, height))
    panels = figure.subplots(len(firsts), 1, squeeze=False, sharey=True)
    # In inches from each edge. A layout that is computed draws everything twice, which takes seconds.
    figure.subplots_adjust(
        left=1.0 / width, right=1 - 0.1 / width, top=1 - 0.45 / height, bottom=0.65 / height, hspace=0.22
    )
    bottom = 0.3 * share[share > 0].min()  # so that the rarest symbol has a bar
    classes = [class_of(symbol) for symbol in symbols] if symbols is not None else [0] * counts.size
    for first, axes in zip(firsts, panels[:, 0], strict=True):
        tokens = np.arange(first, min(first + BARS_PER_ROW, counts.size))
        heights = np.where(counts[tokens] > 0, share[tokens] - bottom, 0)
        colors = [SERIES[classes[token]] for token in tokens]
        axes.bar(tokens, heights, bottom=bottom, width=0.85, color=colors)
        _log_shares(axes)
        axes.set_ylim(bottom, 1.0)
        axes.set_xlim(first - 0.8, first + row - 0.2)
        labels = [label_of(int(token), symbols) for token in tokens]
        axes.set_xticks(tokens, labels, fontsize=9, family="DejaVu Sans Mono")
        for label, token in zip(axes.get_xticklabels(), tokens, strict=True):
            label.set_color("black" if counts[token] else "silver")
            if len(label.get_text()) > 1:
                label.set_fontsize(7)
        axes.grid(visible=False, axis="x")
        axes.tick_params(axis="x", length=0, pad=2)
        axes.set_ylabel("share")
    if symbols is not None:
        present = sorted({classes[token] for token in np.flatnonzero(counts)})
        handles = [mpl.patches.Patch(color=SERIES[number], label=CLASSES[number]) for number in present]
        figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False)
    return figure


def _draw_ranks(counts: Int64, symbols: Sequence[bytes] | None) -> "mpl.figure.Figure":
    """The commonest tokens by name, and all of them by rank: a straight line there is Zipf's law."""
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    share = counts[order] / counts.sum()
    figure = mpl.figure.Figure(figsize=(14, 8), layout="constrained")
    top, all_ranks = figure.subplots(2, 1)
    shown = order[:LABELLED_RANKS]
    top.bar(np.arange(shown.size), share[: shown.size], color=SERIES[0], width=0.85)
    labels = [label_of(int(token), symbols) for token in shown]
    top.set_xticks(np.arange(shown.size), labels, rotation=60)
    top.set_ylabel("share")
    top.set_title(f"the {shown.size} commonest", fontsize=10)
    all_ranks.plot(np.arange(1, order.size + 1), share, color=SERIES[0])
    all_ranks.set_xscale("log")
    all_ranks.xaxis.set_major_formatter("{x:,.0f}")
    _log_shares(all_ranks)
    all_ranks.set_xlabel("rank")
    all_ranks.set_ylabel("share")
    all_ranks.set_title("all, by rank", fontsize=10)
    top.set_xlim(-0.8, shown.size - 0.2)
    top.grid(visible=False, axis="x")
    return figure


def _log_shares(axes: Any) -> None:
    """A logarithmic axis of shares, as plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
