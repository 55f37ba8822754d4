"""From window numbers to batches, over all corpora of an experiment: what a data rank calls for every micro-batch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Protocol

import numpy as np

from megachar.base.errors import DataError
from megachar.config.sections.data import DataConfig
from megachar.data.batches import evenly_spaced_starts, gather_windows, inputs_and_targets
from megachar.data.blend import Blend
from megachar.data.corpus import Corpus, SplitName
from megachar.data.documents import DocumentSampler
from megachar.data.sampler import Int64, UInt64, WindowSampler, make_key
from megachar.data.streams import Streams


class Sampler(Protocol):
    """Where the windows of one corpus start."""

    def window_starts(self, windows: UInt64) -> Int64:
        """The first token of each of the windows with these numbers (b,): (b,)."""


class WindowReader:
    """Reads the windows of one split, each corpus through a sampler and a count of windows of its own."""

    def __init__(
        self,
        blend: Blend,
        split: SplitName,
        samplers: Sequence[Sampler],
        context: int,
        window_tokens: int,
        note: str = "",
    ) -> None:
        """`samplers`: those of the blend's corpora, in its order; `context`: inputs of a window of `window_tokens`."""
        self._blend, self._split, self._samplers = blend, split, samplers
        self._context, self._window_tokens = context, window_tokens
        # Plain arrays over the same memory maps: slicing the memmap subclass is slower.
        self._texts = [np.asarray(corpus.split(split).tokens) for corpus in blend.corpora]
        self.note = note
        """What is left out, in words; empty where nothing is."""

    def read(self, windows: UInt64) -> tuple[Int64, Int64]:
        """Inputs (b, t) and targets (b, t, n) of the windows with these numbers (b,), both int64.

        DataError where a token is outside the vocabulary: the data are damaged.
        """
        corpora, starts = self.locate(windows)
        tokens = gather_windows(self._texts, corpora, starts, self._window_tokens)  # (b, t + n)
        self._check_tokens(tokens, corpora, starts)
        return inputs_and_targets(tokens, self._context)

    def locate(self, windows: UInt64) -> tuple[Int64, Int64]:
        """Of the windows with these numbers (b,): the number of the corpus, and the first token there, (b,) each."""
        if len(self._samplers) == 1:
            return np.zeros(windows.size, dtype=np.int64), self._samplers[0].window_starts(windows)
        corpora, numbers = self._blend.pattern(windows)
        starts = np.empty(windows.size, dtype=np.int64)
        for corpus, sampler in enumerate(self._samplers):
            of_corpus = np.flatnonzero(corpora == corpus)
            if of_corpus.size:
                starts[of_corpus] = sampler.window_starts(numbers[of_corpus])
        return corpora, starts

    def _check_tokens(self, tokens: Int64, corpora: Int64, starts: Int64) -> None:
        """An index outside the vocabulary would end the run far from here, on a GPU without a word of why."""
        size = self._blend.vocabulary.size
        if tokens.max(initial=0) >= size or tokens.min(initial=0) < 0:
            rows, columns = np.nonzero((tokens >= size) | (tokens < 0))
            row, column = rows[0], columns[0]
            raise DataError(
                f"{self._blend.corpora[corpora[row]].folder}: token {tokens[row, column]} at position "
                f"{starts[row] + column:,} of the split '{self._split}' is outside the vocabulary of {size} tokens: "
                "the data are damaged; copy the corpus again or prepare it again"
            )


class _InBlocks:
    """Another sampler, asked for whole blocks of windows: in order, as a run reads them, that is many times faster."""

    _block = 1024

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._starts = lru_cache(maxsize=2)(self._place)  # two, for a batch that runs into the next block

    def window_starts(self, windows: UInt64) -> Int64:
        blocks, places = np.divmod(windows, np.uint64(self._block))
        starts = np.empty(windows.shape, dtype=np.int64)
        for block in set(blocks.tolist()):
            inside = blocks == block
            starts[inside] = self._starts(block)[places[inside]]
        return starts

    def _place(self, block: int) -> Int64:
        first = np.uint64(block) * np.uint64(self._block)
        return self._sampler.window_starts(first + np.arange(self._block, dtype=np.uint64))


class _FixedStarts:
    """A sampler whose windows were placed beforehand."""

    def __init__(self, starts: Int64) -> None:
        self._starts = starts

    def window_starts(self, windows: UInt64) -> Int64:
        return self._starts[windows]


def training_reader(blend: Blend, config: DataConfig, context: int, window_tokens: int, seed: int) -> WindowReader:
    """Reads windows of the train splits, numbered over the whole run; `seed` in [0, 2^63).

    A window is `context` inputs, and as many more tokens as a position has targets.
    DataError where a corpus is too short for a window or, for windows inside documents, has hardly any long enough.
    """
    assert config.order != "streams", "of recurrent models: `stream_reader`"
    samplers: list[Sampler] = []
    left_out = []
    for number, corpus in enumerate(blend.corpora):
        own_seed = make_key(seed, number) if number else seed  # so that a blend of one reads what data.path does
        with _naming(corpus, "train"):
            dataset = corpus.split("train")
            if config.windows == "document":
                documents = DocumentSampler(dataset, window_tokens, context, own_seed, config.order)
                left_out.append(f"{documents.left_out:,} of {len(dataset):,} characters of {corpus.folder}")
                samplers.append(_InBlocks(documents))
            else:
                samplers.append(_InBlocks(WindowSampler(len(dataset), window_tokens, context, own_seed, config.order)))
    note = ""
    if left_out:
        note = f"documents shorter than a window of {window_tokens} are left out: {', '.join(left_out)}"
    return WindowReader(blend, "train", samplers, context, window_tokens, note)


def stream_reader(
    blend: Blend, split: SplitName, num_streams: int, segment_length: int
) -> tuple[WindowReader, Streams]:
    """Reads contiguous streams of one text: window k S + s is segment k of stream s. One target a position.

    DataError where the split is too short for them.
    """
    (corpus,) = blend.corpora
    with _naming(corpus, split):
        streams = Streams(len(corpus.split(split)), num_streams, segment_length)
    return WindowReader(blend, split, [streams], segment_length, segment_length + 1), streams


def validation_reader(blend: Blend, config: DataConfig, context: int, window_tokens: int, count: int) -> WindowReader:
    """Reads windows 0 to count - 1 of the valid splits, the same in every run.

    Each corpus gets its share of them, spread evenly over it, so the loss estimates that of the mixture trained on.
    DataError as for `training_reader`.
    """
    samplers: list[Sampler] = []
    for corpus, own_count in zip(blend.corpora, blend.pattern.counts(count).tolist(), strict=True):
        with _naming(corpus, "valid"):
            dataset, own_count = corpus.split("valid"), max(1, own_count)
            if config.windows == "document":
                documents = DocumentSampler(dataset, window_tokens, context, seed=0, order="random")
                samplers.append(_FixedStarts(documents.evenly_spaced_starts(own_count)))
            else:
                samplers.append(_FixedStarts(evenly_spaced_starts(len(dataset), window_tokens, own_count)))
    return WindowReader(blend, "valid", samplers, context, window_tokens)


@contextmanager
def _naming(corpus: Corpus, split: SplitName) -> Iterator[None]:
    """Say in a DataError which split it is about."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{split} split of {corpus.folder}: {error}") from error
