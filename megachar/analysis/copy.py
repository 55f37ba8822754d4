"""Whether a model copies a name it has never seen from the text before (Al-Rfou et al. 2019). Imports no torch."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from megachar.analysis.finish import Saving, finish
from megachar.analysis.given import Computing, GivenText, Runs, common_vocabulary, sha256
from megachar.analysis.result import Analysis, Cell, Column, Subject, Table
from megachar.analysis.texts import check_characters, shown
from megachar.base import mpl
from megachar.base.errors import ConfigError
from megachar.base.pictures import MARK, series, style
from megachar.base.units import bits_per_character
from megachar.cli.shared.given_text import argument_bytes, encode_given
from megachar.cli.shared.groups import spread
from megachar.data.vocabulary import Vocabulary
from megachar.evaluation.progress import Progress

if TYPE_CHECKING:
    from megachar.evaluation.predictor import Predictor

# Bytes above ASCII are parts of letters, as a rule: "Jos" is not a name of its own in "José".
_PART_OF_WORD = rb"[0-9A-Za-z_\x80-\xff]"


@dataclass(frozen=True)
class Passage:
    """A text and where a name is in it."""

    name: bytes
    text: bytes
    starts: tuple[int, ...]
    """Bytes before each occurrence."""


@dataclass(frozen=True)
class Occurrence:
    """One occurrence of a name."""

    distance: int
    """Symbols from the first occurrence's start to its own; 0 for the first."""
    bits: float
    """Mean bits per symbol of the name."""


Found = Sequence[tuple[list[Occurrence], list[Occurrence]]]
"""Of each model the occurrences of the original name and of the invented one."""


def swap_name(text: bytes, name: bytes, invented: bytes) -> tuple[Passage, Passage]:
    """The text with the name, and with the invented one in each of its places: only where it is a word of its own.

    ConfigError where the names are empty or the same, or the text has the name less than twice or at its beginning, or
    has the invented one.
    """
    for option, value in (("--name", name), ("--invented", invented)):
        if not value:
            raise ConfigError(f"{option} is empty; give a name")
    if name == invented:
        raise ConfigError(f"--name and --invented are both {shown(name)!r}; invent another")
    starts = _places(text, name)
    if len(starts) < 2:
        raise ConfigError(
            f"the text has {shown(name)!r} as a word of its own {len(starts)} times; "
            "name one that occurs twice or more, with capitals as in the text"
        )
    if starts[0] == 0:
        raise ConfigError(
            f"the text begins with {shown(name)!r}, which is then predicted from nothing; put some text before it"
        )
    if _places(text, invented):
        raise ConfigError(f"the text has {shown(invented)!r} already; invent a name that it does not have")
    longer = len(invented) - len(name)
    swapped = _pattern(name).sub(lambda _: invented, text)
    moved = tuple(start + number * longer for number, start in enumerate(starts))
    return Passage(name, text, starts), Passage(invented, swapped, moved)


def occurrences(
    predictor: "Predictor", passage: Passage, vocabulary: Vocabulary, progress: Progress | None = None
) -> list[Occurrence]:
    """Each occurrence of the passage's name, in order."""
    nats = predictor.nats(vocabulary.encode(passage.text), None, progress)
    spans = [_span(passage, start, vocabulary) for start in passage.starts]
    first = spans[0][0]
    return [
        Occurrence(begin - first, bits_per_character(float(np.sum(nats[begin:end])), end - begin))
        for begin, end in spans
    ]


def _places(text: bytes, name: bytes) -> tuple[int, ...]:
    return tuple(match.start() for match in _pattern(name).finditer(text))


def _pattern(name: bytes) -> re.Pattern[bytes]:
    return re.compile(b"(?<!" + _PART_OF_WORD + b")" + re.escape(name) + b"(?!" + _PART_OF_WORD + b")")


def _span(passage: Passage, start: int, vocabulary: Vocabulary) -> tuple[int, int]:
    """The symbols [begin, end) of the name at byte `start`; a vocabulary of characters cuts a text between any two."""
    begin = vocabulary.encode(passage.text[:start]).size
    return begin, begin + vocabulary.encode(passage.name).size


def analyze_copying(
    subjects: Sequence[Subject],
    passages: tuple[Passage, Passage],
    found: Found,
    contexts: Sequence[int | None],
    settings: dict[str, Any],
    unit: str = "character",
) -> Analysis:
    """The analysis of one or more models.

    Args:
        subjects: the models.
        passages: with the original name and the invented one.
        found: see `Found`.
        contexts: of each model, in symbols; None where it has no bound.
        settings: what tells text and names from others.
        unit: what a symbol is called.
    """
    original, invented = (shown(passage.name) for passage in passages)
    short = "bits/char" if unit == "character" else f"bits/{unit}"
    columns = [Column("occurrence"), Column(f"distance ({unit}s)", ",")]
    for subject in subjects:
        columns += [Column(f"{subject.label}: {name} ({short})", ".3f") for name in (original, invented)]
    distances = [occurrence.distance for occurrence in found[0][0]]
    rows: list[tuple[Cell, ...]] = []
    for number, distance in enumerate(distances):
        losses = [occurrences[number].bits for of_model in found for occurrences in of_model]
        rows.append((number + 1, distance, *losses))
    reading = (
        f"The first occurrence of the invented {invented} cannot be known; where later ones cost little, the model "
        f"copies them from the text before. The original {original} may also be known from training."
    )
    title = f"“{original}” and “{invented}” in the same text: the loss on each occurrence"
    table = Table(tuple(columns), tuple(rows))
    details = _details(subjects, (original, invented), found, unit)
    figure = _draw(subjects, (original, invented), found, contexts, title, unit)
    return Analysis("copy", title, tuple(subjects), table, figure, reading, "", settings, details)


def _details(subjects: Sequence[Subject], names: tuple[str, str], found: Found, unit: str) -> Table:
    """One row for each occurrence; the distances of the invented name are those in its own text."""
    columns = (Column("run"), Column("name"), Column("occurrence"), Column(f"distance_{unit}s"),
               Column(f"bits_per_{unit}"))  # fmt: skip
    rows = tuple(
        (subject.label, name, number, occurrence.distance, occurrence.bits)
        for subject, of_model in zip(subjects, found, strict=True)
        for name, of_name in zip(names, of_model, strict=True)
        for number, occurrence in enumerate(of_name, start=1)
    )
    return Table(columns, rows)


@style()
def _draw(
    subjects: Sequence[Subject],
    names: tuple[str, str],
    found: Found,
    contexts: Sequence[int | None],
    title: str,
    unit: str,
) -> "mpl.figure.Figure":
    figure = mpl.figure.Figure(figsize=(8, 1 + 3.6 * len(subjects)), layout="constrained")
    panels = figure.subplots(len(subjects), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    top = 1.08 * max(occurrence.bits for of_model in found for of_name in of_model for occurrence in of_name)
    for axes, subject, of_model, context in zip(panels, subjects, found, contexts, strict=True):
        for number, (name, what, of_name) in enumerate(zip(names, ("original", "invented"), of_model, strict=True)):
            axes.plot([o.distance for o in of_name], [o.bits for o in of_name], **series(number).line(),
                      label=f"{name} ({what})")  # fmt: skip
        last = max(occurrence.distance for of_name in of_model for occurrence in of_name)
        if context is not None and context < last:
            axes.axvline(context, color=MARK, linestyle=":", label=f"context: {context:,} {unit}s")
        axes.set_ylabel(f"bits per {unit} of the name")
        axes.set_ylim(0, top)
        axes.set_title(subject.label, fontsize="medium")
        axes.legend()
    panels[-1].set_xlabel(f"{unit}s from the first occurrence (0: the first occurrence itself)")
    figure.suptitle(title, fontsize="medium")
    return figure


@spread
def copy(
    runs: Runs,
    name: Annotated[str, typer.Option(help="A name that occurs in the text twice or more, as a word of its own.")],
    invented: Annotated[str, typer.Option(help="What takes its place.")],
    *,
    text: GivenText,
    computing: Computing,
    saving: Saving,
) -> None:
    """Whether a name is copied from the text before: its losses against an invented one's (Al-Rfou et al. 2019)."""
    models = computing.find(runs)
    vocabulary = common_vocabulary(models)
    check_characters(vocabulary, "the loss of a name")
    passages = swap_name(text.read(), argument_bytes(name), argument_bytes(invented))
    sizes = [encode_given(vocabulary, passage.text, "the text").size for passage in passages]
    folder = saving.folder(runs[0])
    found = []
    for model, predictor, progress in computing.predictors(models, len(models) * (sum(sizes) - len(sizes))):
        original, swapped = (occurrences(predictor, passage, vocabulary, progress) for passage in passages)
        found.append((original, swapped))
        model.check_finite([occurrence.bits for occurrence in (*original, *swapped)])
    settings = {"text_sha256": sha256(passages[0].text), "name": name, "invented": invented}
    subjects, contexts = [model.subject for model in models], [model.context for model in models]
    analysis = analyze_copying(subjects, passages, found, contexts, settings, vocabulary.unit)
    finish(analysis, folder, saving.picture_format)
