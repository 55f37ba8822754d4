"""What a model expects along a text: entropy, loss, rank of each character (Al-Rfou et al. 2019). Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from megachar.analysis.finish import Saving, finish
from megachar.analysis.given import Computing, GivenText, common_vocabulary, sha256
from megachar.analysis.result import Analysis, Column, Subject, Table
from megachar.analysis.texts import drawn, shown
from megachar.base import mpl
from megachar.base.errors import DataError
from megachar.base.pictures import INK, SERIES, style
from megachar.base.units import NATS_PER_BIT
from megachar.cli.shared.given_text import encode_given
from megachar.cli.shared.groups import spread
from megachar.cli.shared.options import Run
from megachar.evaluation.progress import Progress

if TYPE_CHECKING:
    from megachar.evaluation.predictor import Predictor

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
SYMBOLS_OF_A_LINE = 80
LINES_DRAWN = 8
_FONT = "DejaVu Sans Mono"  # comes with matplotlib
ABOVE, BELOW = SERIES[1], SERIES[0]
"""Colours of losses above and below the entropy."""
NUM_HARDEST = 10
"""Characters of the largest losses that are shown in the table."""


@dataclass(frozen=True)
class Expectations:
    """Of each character but the first, which is predicted from nothing: (N - 1,) each."""

    entropy_bits: Floats
    """Of the distribution it was predicted by."""
    loss_bits: Floats
    rank: Ints
    """1 where no symbol was likelier."""


def check_text(num_symbols: int) -> None:
    """DataError unless something of the text is predicted from something."""
    if num_symbols < 2:
        raise DataError(
            f"the text has {num_symbols} symbols, and the first is predicted from nothing; give two or more"
        )


def expectations(predictor: "Predictor", tokens: npt.NDArray[Any], progress: Progress | None = None) -> Expectations:
    """Entropy, loss and rank along the text `tokens` (N,)."""
    entropies, losses, ranks = [], [], []
    place = 1
    for batch in predictor.predict(tokens):
        rows = batch.double().numpy()  # (p, v)
        targets = tokens[place : place + len(rows)].astype(np.int64)
        of_targets = np.take_along_axis(rows, targets[:, None], axis=1)  # (p, 1)
        # 0 log 0 is 0, but -inf times 0 is no number.
        entropies.append(-(np.exp(rows) * np.where(np.isneginf(rows), 0.0, rows)).sum(1))
        losses.append(-of_targets[:, 0])
        ranks.append(1 + (rows > of_targets).sum(1))
        place += len(rows)
        if progress is not None:
            progress(len(rows))
    assert place == tokens.size, f"{place} of {tokens.size} characters"
    return Expectations(
        np.concatenate(entropies) / NATS_PER_BIT, np.concatenate(losses) / NATS_PER_BIT, np.concatenate(ranks)
    )


def analyze_seed_text(
    subject: Subject, symbols: Sequence[bytes], found: Expectations, settings: dict[str, Any]
) -> Analysis:
    """The analysis of one model on one text.

    Args:
        subject: the model.
        symbols: the text of each of the N symbols.
        found: what `expectations` gives for them.
        settings: what tells the text from others.
    """
    places = range(1, len(symbols))
    columns = (Column("place", ","), Column("symbol"), Column("entropy (bits)", ".3f"), Column("loss (bits)", ".3f"),
               Column("rank", ","))  # fmt: skip
    figures = zip(found.entropy_bits.tolist(), found.loss_bits.tolist(), found.rank.tolist(), strict=True)
    details = Table(columns, tuple((i, shown(symbols[i]), *values) for i, values in zip(places, figures, strict=True)))
    reading = (
        "A bar is what a symbol cost, the line what the model expected it to cost (its entropy), a number its rank "
        "(1, the likeliest, is not written). Orange bars, above the line, are surprises. The first symbol has no "
        "figures."
    )
    title = (
        f"{subject.label} along {len(symbols):,} symbols: mean loss {found.loss_bits.mean():.3f}, mean entropy "
        f"{found.entropy_bits.mean():.3f} bits, rank 1 for {np.mean(found.rank == 1):.0%}"
    )
    return Analysis("seed-text", title, (subject,), _hardest(details, symbols), _draw(symbols, found, title), reading,
                    "", settings, details)  # fmt: skip


def _hardest(details: Table, symbols: Sequence[bytes]) -> Table:
    """The symbols of the largest losses, in order of these, with what is before them."""
    order = sorted(details.rows, key=lambda row: -float(row[3] or 0))[:NUM_HARDEST]
    before = [shown(b"".join(symbols[max(0, int(row[0] or 0) - 30) : int(row[0] or 0)])) for row in order]
    columns = (details.columns[0], Column("after"), *details.columns[1:])
    return Table(columns, tuple((row[0], text, *row[1:]) for row, text in zip(order, before, strict=True)))


@style()
def _draw(symbols: Sequence[bytes], found: Expectations, title: str) -> "mpl.figure.Figure":
    """Lines of text one below the other, with a bar, a step of the line and a number above each symbol."""
    glyphs = frozenset(mpl.font_manager.get_font(mpl.font_manager.findfont(_FONT)).get_charmap())
    num_drawn = min(len(symbols) - 1, SYMBOLS_OF_A_LINE * LINES_DRAWN)
    num_lines = -(-num_drawn // SYMBOLS_OF_A_LINE)
    height = 2 + 1.5 * num_lines
    # Places are set by hand: finding them around a thousand pieces of text takes a minute.
    figure = mpl.figure.Figure(figsize=(15, height))
    panels = figure.subplots(num_lines, 1, squeeze=False, sharey=True)[:, 0]
    figure.subplots_adjust(left=0.05, right=0.99, top=1 - 0.6 / height, bottom=0.9 / height, hspace=0.35)
    top = 1.25 * float(np.maximum(found.loss_bits, found.entropy_bits)[:num_drawn].max())
    for number, axes in enumerate(panels):
        start = number * SYMBOLS_OF_A_LINE
        line = slice(start, min(start + SYMBOLS_OF_A_LINE, num_drawn))
        labels = [drawn(symbol, glyphs) for symbol in symbols[1 + line.start : 1 + line.stop]]
        _draw_line(axes, labels, found.loss_bits[line], found.entropy_bits[line], found.rank[line])
        axes.set_ylim(0, top)
    figure.supylabel("bits", fontsize="medium")
    part = "" if num_drawn == len(symbols) - 1 else f" (drawn: the first {num_drawn:,})"
    figure.suptitle(title + part, fontsize="medium", y=1 - 0.15 / height, va="top")
    handles = [
        mpl.patches.Patch(color=ABOVE, label="loss above entropy"),
        mpl.patches.Patch(color=BELOW, label="loss below entropy"),
        mpl.lines.Line2D([], [], color=INK, linewidth=1, label="entropy"),
        mpl.lines.Line2D([], [], linestyle="", label="number: rank where it is not 1"),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=4)
    return figure


def _draw_line(axes: Any, labels: Sequence[str], losses: Floats, entropies: Floats, ranks: Ints) -> None:
    places = np.arange(len(labels))
    axes.bar(places, losses, width=0.8, color=np.where(losses > entropies, ABOVE, BELOW))
    axes.stairs(entropies, np.arange(len(labels) + 1) - 0.5, color=INK, linewidth=1, baseline=None)
    for place, rank in zip(places.tolist(), ranks.tolist(), strict=True):
        if rank > 1:
            axes.annotate(str(rank), (place, max(losses[place], entropies[place])), xytext=(0, 1), ha="center",
                          textcoords="offset points", fontsize=6)  # fmt: skip
    longest = max(max(map(len, label.split("\n"))) for label in labels)
    axes.set_xticks(places, labels, family=_FONT, fontsize=9, rotation=90 if longest > 1 else 0)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, SYMBOLS_OF_A_LINE - 0.4)
    axes.grid(visible=False, axis="x")


@spread
def seed_text(run: Run, *, text: GivenText, computing: Computing, saving: Saving) -> None:
    """Entropy, loss and rank of each character along a text (Al-Rfou et al. 2019)."""
    models = computing.find([run])
    vocabulary = common_vocabulary(models)
    given = text.read()
    tokens = encode_given(vocabulary, given, "the text")
    check_text(tokens.size)
    folder = saving.folder(run)
    for model, predictor, progress in computing.predictors(models, tokens.size - 1):
        found = expectations(predictor, tokens, progress)
        model.check_finite(found.loss_bits)
    symbols = [vocabulary.decode([token]) for token in tokens.tolist()]
    analysis = analyze_seed_text(models[0].subject, symbols, found, {"text_sha256": sha256(given)})
    finish(analysis, folder, saving.picture_format)
