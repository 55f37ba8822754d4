"""The loss with more and less context (Al-Rfou et al. 2019). Imports no torch."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from megachar.analysis.finish import Saving, finish
from megachar.analysis.given import (
    Computing,
    Data,
    MaxCharacters,
    Runs,
    Stride,
    identify,
    open_common_corpus,
    read_tokens,
)
from megachar.analysis.result import Analysis, Cell, Column, Subject, Table
from megachar.base import mpl
from megachar.base.errors import ConfigError, DataError
from megachar.base.pictures import MARK, legend, series, style
from megachar.base.units import bits_per_character
from megachar.cli.shared.groups import spread
from megachar.cli.shared.options import Split
from megachar.evaluation.progress import Progress
from megachar.evaluation.windows import check_stride

if TYPE_CHECKING:
    from megachar.evaluation.predictor import Predictor

UNBOUNDED = None
"""As a length: all characters before each, the state carried on; recurrent models alone have it."""
Losses = dict[int | None, float]
"""Length of the context in characters -> bits per character."""


def check_lengths(lengths: Sequence[int], num_characters: int, contexts: Mapping[str, int | None]) -> None:
    """ConfigError or DataError where a length cannot be measured.

    Args:
        lengths: of context, in characters.
        num_characters: of the text.
        contexts: of each run the longest it can use; None where there is no such.
    """
    if not lengths or min(lengths) < 1 or len(set(lengths)) != len(lengths):
        given = ",".join(map(str, lengths)) or "nothing"
        raise ConfigError(f"lengths = {given}: give different numbers of characters from 1, such as 32,64,128")
    for label, context in contexts.items():
        if context is not None and max(lengths) > context:
            fitting = [length for length in lengths if length < context]
            mend = ",".join(map(str, [*fitting, context]))
            raise ConfigError(
                f"a context of {max(lengths)} characters is more than the transformer {label} can use, which is "
                f"{context}; set --lengths {mend}"
            )
    if num_characters <= max(lengths):
        raise DataError(
            f"the text has {num_characters:,} characters, none of them with {max(lengths):,} before it; "
            "give a longer text, or set shorter --lengths"
        )


def losses_by_context(
    predictor: "Predictor", tokens: npt.NDArray[Any], lengths: Sequence[int], progress: Progress | None = None
) -> Losses:
    """Bits per character of the same characters of `tokens` (N,): those with the longest of `lengths` before them.

    For a predictor without bound also that from all characters before each.
    """
    first = max(lengths)
    wanted = [*lengths, *([UNBOUNDED] if predictor.context is None else [])]
    found = {}
    for length in wanted:
        nats = predictor.nats(tokens, length, progress)[first:]
        found[length] = bits_per_character(float(np.sum(nats)), nats.size)
    return found


def analyze_context(
    subjects: Sequence[Subject],
    losses: Sequence[Losses],
    split: str,
    num_scored: int,
    settings: dict[str, Any],
    unit: str = "character",
) -> Analysis:
    """The analysis from each model's losses, each the mean over `num_scored` characters, or whatever the `unit` is."""
    lengths = sorted({length for found in losses for length in found if length is not None})
    every: list[int | None] = [*lengths, *([UNBOUNDED] if any(UNBOUNDED in found for found in losses) else [])]
    rows: list[tuple[Cell, ...]] = [
        ("all before" if length is None else length, *(found.get(length) for found in losses)) for length in every
    ]
    columns = (Column(f"context ({unit}s)", ","), *(Column(f"{s.label} (bits per {unit})", ".4f") for s in subjects))
    reading = (
        f"A curve that still falls on the right means that the model uses {unit}s that far back; where it is flat, "
        f"more context does not help. Every point is over the same {unit}s."
    )
    title = f"Bits per {unit} of {num_scored:,} {unit}s of {split} by length of context"
    return Analysis("context", title, tuple(subjects), Table(columns, tuple(rows)),
                    _draw(subjects, losses, lengths, title, unit), reading, split, settings)  # fmt: skip


@style()
def _draw(
    subjects: Sequence[Subject], losses: Sequence[Losses], lengths: Sequence[int], title: str, unit: str
) -> "mpl.figure.Figure":
    figure = mpl.figure.Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    for number, (subject, found) in enumerate(zip(subjects, losses, strict=True)):
        line = series(number).line()
        own = sorted(length for length in found if length is not None)
        axes.plot(own, [found[length] for length in own], **line, label=subject.label)
        for length in own if len(subjects) == 1 else own[-1:]:
            axes.annotate(f"{found[length]:.3f}", (length, found[length]), xytext=(4, 5), textcoords="offset points",
                          fontsize="small")  # fmt: skip
        if UNBOUNDED in found:
            axes.axhline(found[UNBOUNDED], color=line["color"], linestyle=":")
    if any(UNBOUNDED in found for found in losses):
        axes.plot([], [], color=MARK, linestyle=":", label=f"dotted: all {unit}s before")
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.minorticks_off()
    axes.margins(0.08, 0.12)
    axes.set_xlabel(f"context ({unit}s before the predicted one)")
    axes.set_ylabel(f"bits per {unit}")
    axes.set_title(title, fontsize="medium")
    legend(axes)
    return figure


@spread
def context(
    runs: Runs,
    lengths: Annotated[str, typer.Option(help="Lengths of context in characters, separated by commas.")] = (
        "32,64,128,256,512"
    ),
    split: Split = "valid",
    max_characters: MaxCharacters = None,
    stride: Stride = None,
    *,
    computing: Computing,
    data: Data = None,
    saving: Saving,
) -> None:
    """Bits per character with different lengths of context (Al-Rfou et al. 2019)."""
    numbers = _numbers(lengths)
    models = computing.find(runs, stride)
    corpus = open_common_corpus(models, data)
    tokens = read_tokens(corpus, split, max_characters)
    check_lengths(numbers, tokens.size, {model.subject.label: model.context for model in models})
    if stride is not None:
        check_stride(stride, min(numbers))
    folder = saving.folder(runs[0])
    passes = sum(len(numbers) + (model.context is None) for model in models)
    found = []
    for model, predictor, progress in computing.predictors(models, passes * (tokens.size - 1), stride):
        found.append(losses_by_context(predictor, tokens, numbers, progress))
        model.check_finite(list(found[-1].values()))
    settings = {**identify(corpus, models), "num_characters": tokens.size, "lengths": numbers, "stride": stride}
    subjects, num_scored = [model.subject for model in models], tokens.size - max(numbers)
    analysis = analyze_context(subjects, found, split, num_scored, settings, corpus.vocabulary.unit)
    finish(analysis, folder, saving.picture_format)


def _numbers(lengths: str) -> list[int]:
    try:
        return [int(length) for length in lengths.split(",")]
    except ValueError:
        raise ConfigError(f"--lengths {lengths} are no whole numbers between commas; give such as 32,64,128") from None
