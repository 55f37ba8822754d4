"""How probable each of some words is as what follows a prompt, exactly (Al-Rfou et al. 2019). Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from megachar.analysis.finish import Saving, finish
from megachar.analysis.given import Computing, Runs, common_vocabulary, sha256
from megachar.analysis.result import Analysis, Column, Subject, Table
from megachar.analysis.texts import check_characters, shown, word_endings
from megachar.base import mpl
from megachar.base.errors import ConfigError
from megachar.base.pictures import legend, series, style
from megachar.base.units import NATS_PER_BIT
from megachar.cli.shared.given_text import argument_bytes, encode_given, read_file, read_prompt
from megachar.cli.shared.groups import spread
from megachar.data.vocabulary import Vocabulary
from megachar.evaluation.progress import Progress

if TYPE_CHECKING:
    from megachar.evaluation.predictor import Predictor

WORDS_DRAWN = 40
ENDING = "a whole character that is no letter, digit or combining mark"


@dataclass(frozen=True)
class Completion:
    """Natural logarithms of the probabilities of one word after the prompt."""

    spelled: float
    """That its symbols follow: the product of each one's probability after those before it."""
    ended: float
    """That a symbol that ends a word follows them: the sum of the probabilities of all these symbols."""

    @property
    def probability(self) -> float:
        """That the word follows, and ends there."""
        return float(np.exp(self.spelled + self.ended))


def check_words(words: Sequence[str]) -> None:
    """ConfigError on no words, an empty one, or one that is given twice."""
    if not words:
        raise ConfigError("no words are given; name some with --word WORD, once for each, or --words-file FILE")
    for number, word in enumerate(words):
        if not word:
            raise ConfigError(f"word {number + 1} of {len(words)} is empty; leave it out")
        if word in words[:number]:
            raise ConfigError(f"the word {word!r} is given twice; leave one out")


def complete(
    predictor: "Predictor",
    prompt: bytes,
    words: Sequence[bytes],
    vocabulary: Vocabulary,
    progress: Progress | None = None,
) -> list[Completion]:
    """The probability of each of `words` right after `prompt`, which is not empty.

    EncodingError where the vocabulary cannot write one of the words.
    """
    endings = word_endings(vocabulary)
    before = vocabulary.encode(prompt)
    if predictor.context is not None:
        before = before[-predictor.context :]  # nothing of the word is predicted from more
    found = []
    for word in words:
        symbols = vocabulary.encode(word)
        # Any symbol after the word: the last prediction is of what follows the word, whatever it is.
        text = np.concatenate([before, symbols, before[:1]])
        rows = np.concatenate([batch.double().numpy() for batch in predictor.predict(text)])[before.size - 1 :]
        assert len(rows) == symbols.size + 1
        spelled = float(rows[np.arange(symbols.size), symbols.astype(np.int64)].sum())
        found.append(Completion(spelled, float(np.logaddexp.reduce(rows[-1, endings]))))
        if progress is not None:
            progress(len(rows))
    return found


def analyze_completions(
    subjects: Sequence[Subject],
    prompt: bytes,
    words: Sequence[str],
    found: Sequence[Sequence[Completion]],
    settings: dict[str, Any],
) -> Analysis:
    """The analysis from each model's completions, in the order of `words`; shown from the likeliest to the first on."""
    order = sorted(range(len(words)), key=lambda i: -found[0][i].probability)
    columns = (Column("word"), *(Column(f"{s.label}: probability", ".3g") for s in subjects))
    table = Table(columns, tuple((shown(words[i].encode()), *(f[i].probability for f in found)) for i in order))
    parts = ("probability", "spelled_bits", "ended_bits")
    details = Table(
        (Column("word"), *(Column(f"{s.label}_{part}") for s in subjects for part in parts)),
        tuple((words[i], *(value for f in found for value in _figures(f[i]))) for i in order),
    )
    reading = (
        "The probability that exactly this word follows the prompt: the product over its symbols, times the sum "
        f"of the probabilities of all symbols that end a word ({ENDING}) after it."
    )
    after = shown(prompt[-60:])
    title = f"What follows “{'…' if len(prompt) > 60 else ''}{after}”"
    return Analysis("completions", title, tuple(subjects), table, _draw(subjects, table, title), reading, "", settings,
                    details)  # fmt: skip


def _figures(completion: Completion) -> tuple[float, float, float]:
    return completion.probability, -completion.spelled / NATS_PER_BIT, -completion.ended / NATS_PER_BIT


@style()
def _draw(subjects: Sequence[Subject], table: Table, title: str) -> "mpl.figure.Figure":
    rows = table.rows[:WORDS_DRAWN]
    figure = mpl.figure.Figure(figsize=(8, 3 + 0.25 * len(rows) * max(1, 0.6 * len(subjects))), layout="constrained")
    axes = figure.subplots()
    height = 0.7 / len(subjects)
    places = np.arange(len(rows))
    for number, subject in enumerate(subjects):
        values = [float(row[1 + number] or 0) for row in rows]
        at = places + (number - (len(subjects) - 1) / 2) * height
        axes.plot(values, at, **{**series(number).line(), "linestyle": ""}, label=subject.label)
        for value, y in zip(values, at.tolist(), strict=True):
            axes.annotate(f"{value:.2g}", (value, y), xytext=(6, 0), textcoords="offset points", va="center",
                          fontsize="small")  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    axes.margins(x=0.15)
    axes.set_yticks(places, [str(row[0]) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)  # the likeliest on top
    axes.set_xlabel("probability that the word follows, and ends there (logarithmic)")
    part = "" if len(rows) == len(table.rows) else f" (the {len(rows)} likeliest of {len(table.rows)} words)"
    axes.set_title(title + part, fontsize="medium")
    if len(subjects) > 1:
        legend(axes)
    return figure


@spread
def completions(
    runs: Runs,
    prompt: Annotated[str | None, typer.Option(help="What the words follow, with the space before them.")] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="File with the prompt, its bytes as they are.")] = None,
    word: Annotated[list[str] | None, typer.Option(help="A word; once for each.")] = None,
    words_file: Annotated[Path | None, typer.Option(help="File with words, one in a line.")] = None,
    *,
    computing: Computing,
    saving: Saving,
) -> None:
    """The exact probability of each of some words after a prompt (Al-Rfou et al. 2019).

    That of a word's characters, one after the other, and then of any symbol that ends a word: a whole character that is
    no letter, digit or combining mark, such as a space, a line end, a full stop, an apostrophe.
    """
    words = [*(word or []), *_read_words(words_file)]
    check_words(words)
    models = computing.find(runs)
    vocabulary = common_vocabulary(models)
    check_characters(vocabulary, "the probability of a word")
    before = read_prompt(prompt, prompt_file)
    encoded = [argument_bytes(given) for given in words]
    num_symbols = sum(encode_given(vocabulary, given, "a word").size + 1 for given in encoded)
    encode_given(vocabulary, before, "the prompt")
    folder = saving.folder(runs[0])
    found = []
    for model, predictor, progress in computing.predictors(models, len(models) * num_symbols):
        found.append(complete(predictor, before, encoded, vocabulary, progress))
        model.check_finite([completion.ended for completion in found[-1]])
    settings = {"prompt_sha256": sha256(before), "words": words}
    analysis = analyze_completions([model.subject for model in models], before, words, found, settings)
    finish(analysis, folder, saving.picture_format)


def _read_words(file: Path | None) -> list[str]:
    """The lines of a file without their ends and without empty ones; none without a file."""
    lines = read_file(file, "--words-file").splitlines() if file is not None else []
    return [line.decode("utf-8", "surrogateescape") for line in lines if line]
