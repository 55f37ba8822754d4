"""What a run's newest checkpoint makes of text: a stretch coloured by surprise, and a sample."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from megachar.base.device import choose_device
from megachar.base.units import bits
from megachar.data.corpus import Corpus
from megachar.data.vocabulary import Vocabulary
from megachar.evaluation.predictor import Predictor
from megachar.evaluation.windows import WARM_UP
from megachar.generation.generator import generate
from megachar.generation.sampling import Sampler
from megachar.generation.settings import SamplingSettings
from megachar.parallel.threads import use_threads
from megachar.report.text import Piece, pieces, safe
from megachar.report.text_settings import TextSettings
from megachar.runs.checkpoints.reading import load_model

LEVELS: Final = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Bits at which the next colour begins."""
BATCH_SIZE: Final = 32
"""Windows in one forward pass."""
PROMPT_TOKENS: Final = 64
"""Of the stretch's beginning, which a sample continues."""
_NUM_EXPECTED = 3  # likeliest tokens named beside a character


@dataclass(frozen=True)
class ColoredPiece:
    """A character with its surprise."""

    piece: Piece
    level: int
    """Of its colour, from 0 to len(LEVELS)."""
    title: str
    """Shown on hover."""


@dataclass(frozen=True)
class ModelTexts:
    """Of one run."""

    step: int
    """Of the checkpoint."""
    colored: list[ColoredPiece]
    mean_bits: float
    """Of a coloured token."""
    prompt: list[Piece]
    sample: list[Piece]


@dataclass(frozen=True)
class _Surprise:
    """Of tokens (t,): what they cost and what was expected."""

    bits: npt.NDArray[np.float64]
    expected: list[list[tuple[int, float]]]
    """The likeliest tokens and their probabilities."""


def read_with_model(run: Path, corpus: Corpus, settings: TextSettings) -> ModelTexts:
    """Colour and sample with a run's newest checkpoint.

    Raises:
        CheckpointError: there is none, it is damaged, or training has diverged.
        ConfigError: the stretch lies outside the split.
        PlatformError: memory is too small.
    """
    tokens, stop = settings.stretch(corpus)
    loaded = load_model(run)
    device = choose_device(settings.device)
    colored: list[ColoredPiece] = []
    mean_bits = float("nan")
    if settings.num_characters:
        context = loaded.model.config.context_limit
        use_threads(settings.threads, loaded.model, rows=1 if context is None else BATCH_SIZE * context)
        surprise = _surprise(Predictor(loaded.model, device, batch_size=BATCH_SIZE), tokens, settings.start, stop)
        mean_bits = float(surprise.bits.mean())
        stretch = pieces(tokens[settings.start : stop], corpus.vocabulary)
        colored = [_colored(piece, surprise, corpus.vocabulary, settings.start) for piece in stretch]
    prompt, sample = list[Piece](), list[Piece]()
    if settings.sample_characters:
        use_threads(settings.threads, loaded.model, rows=1)
        begin = tokens[settings.start : settings.start + PROMPT_TOKENS].tolist()
        sampler = Sampler(SamplingSettings(seed=settings.seed), corpus.vocabulary.size)
        model = loaded.model.to(device)
        text = [*begin, *generate(model, begin, settings.sample_characters, sampler)]
        whole = pieces(text, corpus.vocabulary)
        prompt = [piece for piece in whole if piece.first < len(begin)]
        sample = whole[len(prompt) :]
    return ModelTexts(loaded.step, colored, mean_bits, prompt, sample)


def level_of(value: float) -> int:
    """The colour of so many bits."""
    return bisect_right(LEVELS, value)


def _surprise(predictor: Predictor, tokens: npt.NDArray[Any], start: int, stop: int) -> _Surprise:
    """Of tokens [start, stop), each from what is before it; the first of the whole split counts as uniform."""
    before = min(start, predictor.context or WARM_UP)
    found, expected = list[float](), list[list[tuple[int, float]]]()
    if not before:
        found.append(float(np.log2(predictor.vocabulary_size)))
        expected.append([])
    text = tokens[start - before : stop]
    rows = chain.from_iterable(batch.numpy() for batch in predictor.predict(text))
    for place, row in enumerate(rows, start=1):
        if place >= before:
            found.append(bits(-float(row[int(text[place])])))
            likely = np.argsort(-row, kind="stable")[:_NUM_EXPECTED]
            expected.append([(int(token), float(np.exp(row[token]))) for token in likely])
    return _Surprise(np.array(found), expected)


def _colored(piece: Piece, surprise: _Surprise, vocabulary: Vocabulary, start: int) -> ColoredPiece:
    values = surprise.bits[piece.first : piece.stop]
    total = float(values.sum())
    parts = f" ({' + '.join(f'{value:.2f}' for value in values)})" if len(values) > 1 else ""
    lines = [f"{total:.2f} bits{parts}", f"{piece.name}, place {start + piece.first:,}"]
    expected = surprise.expected[piece.first]
    if expected:
        lines.append("expected: " + _in_words(expected, vocabulary))
    return ColoredPiece(piece, level_of(total), "\n".join(lines))


def _in_words(expected: Sequence[tuple[int, float]], vocabulary: Vocabulary) -> str:
    named = []
    for token, probability in expected:
        text = vocabulary.decode([token]).decode("utf-8", "surrogateescape")
        shown = safe(text).replace("\n", "↵").replace("\t", "⇥")
        named.append(f"“{shown}” {probability:.0%}")
    return ", ".join(named)
