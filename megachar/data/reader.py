"""From window numbers to batches, over all corpora of an experiment: what a data rank calls for every micro-batch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from megachar.config.schema import DataConfig
from megachar.data.batches import evenly_spaced_starts, gather_windows, inputs_and_targets
from megachar.data.blend import Blend
from megachar.data.corpus import Corpus, SplitName
from megachar.data.documents import DocumentSampler
from megachar.data.sampler import Int64, UInt64, WindowSampler, make_key
from megachar.errors import DataError


class Sampler(Protocol):
    """Where the windows of one corpus start."""

    def window_starts(self, windows: UInt64) -> Int64:
        """The first token of each of the windows with these numbers (b,): (b,)."""


class WindowReader:
    """Reads the windows of one split, each corpus through a sampler and a count of windows of its own."""

    def __init__(
        self, blend: Blend, split: SplitName, samplers: Sequence[Sampler], context: int, num_targets: int
    ) -> None:
        """`samplers` are those of the blend's corpora, in its order."""
        self._blend, self._split, self._samplers = blend, split, samplers
        self._window_tokens, self._num_targets = context + num_targets, num_targets
        self._texts: list[npt.NDArray[Any]] = [corpus.split(split).tokens for corpus in blend.corpora]

    def read(self, windows: UInt64) -> tuple[Int64, Int64]:
        """Inputs (b, t) and targets (b, t, n) of the windows with these numbers (b,), both int64.

        DataError where a token is outside the vocabulary: the data are damaged.
        """
        tokens = np.empty((windows.size, self._window_tokens), dtype=np.int64)  # (b, t + n)
        for corpus, places, starts in self.starts(windows):
            tokens[places] = gather_windows(self._texts[corpus], starts, self._window_tokens)
        self._check_tokens(tokens, windows)
        return inputs_and_targets(tokens, self._num_targets)

    def starts(self, windows: UInt64) -> list[tuple[int, Int64, Int64]]:
        """For each corpus that occurs among `windows` (b,): its number, the places in b, and its windows' starts."""
        if len(self._samplers) == 1:
            return [(0, np.arange(windows.size), self._samplers[0].window_starts(windows))]
        corpora, numbers = self._blend.pattern(windows)
        found = []
        for corpus in np.unique(corpora):
            places = np.flatnonzero(corpora == corpus)
            found.append((int(corpus), places, self._samplers[corpus].window_starts(numbers[places])))
        return found

    @property
    def note(self) -> str:
        """What windows inside documents leave out, in words; empty where windows ignore documents."""
        parts = [
            f"{sampler.left_out:,} of {sampler.num_tokens:,} characters of {corpus.folder}"
            for corpus, sampler in zip(self._blend.corpora, self._samplers, strict=True)
            if isinstance(sampler, DocumentSampler)
        ]
        if not parts:
            return ""
        return f"documents shorter than a window of {self._window_tokens:,} characters are left out: {', '.join(parts)}"

    def _check_tokens(self, tokens: Int64, windows: UInt64) -> None:
        """An index outside the vocabulary would end the run far from here, on a GPU without a word of why."""
        size = self._blend.vocabulary.size
        if tokens.size and (tokens.max() >= size or tokens.min() < 0):
            for corpus, places, starts in self.starts(windows):
                rows, columns = np.nonzero((tokens[places] >= size) | (tokens[places] < 0))
                if rows.size:
                    row, column = rows[0], columns[0]
                    raise DataError(
                        f"{self._blend.corpora[corpus].folder}: token {tokens[places[row], column]} at position "
                        f"{starts[row] + column:,} of the split '{self._split}' is outside the vocabulary of {size} "
                        "tokens: the data are damaged; copy the corpus again or prepare it again"
                    )


class _FixedStarts:
    """A sampler whose windows were placed beforehand."""

    def __init__(self, starts: Int64) -> None:
        self._starts = starts

    def window_starts(self, windows: UInt64) -> Int64:
        return self._starts[windows]


def training_reader(blend: Blend, config: DataConfig, context: int, num_targets: int, seed: int) -> WindowReader:
    """Reads windows of the train splits, numbered over the whole run; `seed` in [0, 2^63).

    DataError where a corpus is too short for a window or, for windows inside documents, has hardly any long enough.
    """
    samplers: list[Sampler] = []
    for number, corpus in enumerate(blend.corpora):
        own_seed = make_key(seed, number) if number else seed  # so that a blend of one reads what data.path does
        with _naming(corpus, "train"):
            dataset, window = corpus.split("train"), context + num_targets
            if config.windows == "document":
                samplers.append(DocumentSampler(dataset, window, context, own_seed, config.order))
            else:
                samplers.append(WindowSampler(len(dataset), window, context, own_seed, config.order))
    return WindowReader(blend, "train", samplers, context, num_targets)


def validation_reader(blend: Blend, config: DataConfig, context: int, num_targets: int, count: int) -> WindowReader:
    """Reads windows 0 to count - 1 of the valid splits, the same in every run.

    Each corpus gets its share of them, spread evenly over it, so the loss estimates that of the mixture trained on.
    DataError as for `training_reader`.
    """
    samplers: list[Sampler] = []
    for corpus, own_count in zip(blend.corpora, blend.pattern.counts(count).tolist(), strict=True):
        with _naming(corpus, "valid"):
            dataset, window, own_count = corpus.split("valid"), context + num_targets, max(1, own_count)
            if config.windows == "document":
                documents = DocumentSampler(dataset, window, context, seed=0, order="random")
                samplers.append(_FixedStarts(documents.evenly_spaced_starts(own_count)))
            else:
                samplers.append(_FixedStarts(evenly_spaced_starts(len(dataset), window, own_count)))
    return WindowReader(blend, "valid", samplers, context, num_targets)


@contextmanager
def _naming(corpus: Corpus, split: SplitName) -> Iterator[None]:
    """Say in a DataError which split it is about."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{split} split of {corpus.folder}: {error}") from error
