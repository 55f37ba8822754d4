"""What a dataset holds, in figures: counts of symbols, entropies, what xz makes of it, whether it is undamaged.

Figures are those of a sample of stated size, so looking at a terabyte costs no more than looking at a megabyte.
"""

import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megachar.base.errors import ConfigError, DataError
from megachar.base.files import shown
from megachar.corpora.downloads.download import Stage, silent_stage
from megachar.data.batches import evenly_spaced_starts
from megachar.data.corpus import CARD_NAME, PREPARE, Corpus, SplitName
from megachar.data.digests import Progress, hash_file
from megachar.data.indexed_dataset import IndexedDataset, bin_path, idx_path
from megachar.data.vocabulary import ByteVocabulary, Int64, Vocabulary

DEFAULT_SAMPLE = 10_000_000
MAX_SAMPLE = 100_000_000  # tokens, of which each takes up to 40 bytes of memory while they are counted
_PIECE = 1_000_000
_LARGEST_CODE = 2**63 - 1
XZ_PRESET = 6  # that of the command `xz`: a dictionary of 8 MiB

Sample = Sequence[npt.NDArray[Any]]
"""Pieces (t,) that are spread evenly over a split, in the order in which they lie there, or all of it."""


@dataclass(frozen=True)
class OpenedSplit:
    """A split of a corpus, or a dataset without a card, opened for looking at it."""

    title: str
    dataset: IndexedDataset
    vocabulary: Vocabulary | None
    """None: unknown, as tokens that are no bytes have no card to say what they mean."""
    corpus: Corpus | None
    name: SplitName | None
    """The split; None for a dataset without a card."""

    def text_of(self, tokens: npt.NDArray[Any]) -> bytes | None:
        """The text of `tokens` (t,); None where the vocabulary is unknown."""
        return None if self.vocabulary is None else self.vocabulary.decode(tokens)


def open_split(path: Path, split: str | None = None) -> OpenedSplit:
    """Open a split (default: the first) of the corpus in the folder `path`, or the dataset `path`.bin without a card.

    DataError where there is neither; ConfigError where a dataset without a card is asked for a split.
    """
    path = Path(path)
    prefix = path.with_suffix("") if path.suffix in (".bin", ".idx") else path
    if not path.is_dir() and (bin_path(prefix).exists() or idx_path(prefix).exists()):
        if split is not None:
            raise ConfigError(f"{prefix} is one dataset without splits: leave --split {split} out")
        dataset = IndexedDataset(prefix)
        if not np.issubdtype(dataset.dtype, np.integer):
            raise DataError(f"{prefix} holds numbers of type {dataset.dtype.name}, no tokens: nothing to look at here")
        vocabulary = ByteVocabulary() if dataset.dtype == np.uint8 else None
        return OpenedSplit(shown(prefix), dataset, vocabulary, None, None)
    corpus = Corpus.open(path)
    name = corpus.split_names[0] if split is None else split
    dataset = corpus.split(name)
    known = next(known for known in corpus.split_names if known == name)
    return OpenedSplit(f"{shown(path)}, {name}", dataset, corpus.vocabulary, corpus, known)


def take_sample(tokens: npt.NDArray[Any], max_tokens: int = DEFAULT_SAMPLE, piece_tokens: int = _PIECE) -> Sample:
    """All of `tokens` (n,), or about `max_tokens` of them in pieces of about `piece_tokens`.

    ConfigError where `max_tokens` is out of range; DataError on a negative token.
    """
    if not 1 <= max_tokens <= MAX_SAMPLE:
        raise ConfigError(f"a sample of {max_tokens:,} tokens is out of range: take 1 to {MAX_SAMPLE:,}")
    if tokens.size <= max_tokens:
        pieces = [np.array(tokens)]
    else:
        count = -(-max_tokens // piece_tokens)
        size = max_tokens // count
        starts = evenly_spaced_starts(tokens.size, size, count)
        pieces = [np.array(tokens[start : start + size]) for start in starts]
    for piece in pieces:
        if int(piece.min()) < 0:
            raise DataError(f"the dataset holds the negative token {int(piece.min())}: it is damaged, or no text")
    return pieces


def count_symbols(sample: Sample, num_symbols: int) -> Int64:
    """How often each token occurs in the sample: (v,), v the larger of `num_symbols` and the largest token + 1."""
    counts = np.zeros(num_symbols, dtype=np.int64)
    for piece in sample:
        for first in range(0, piece.size, _PIECE):  # bincount widens its input to 8 bytes a token
            block = np.bincount(piece[first : first + _PIECE], minlength=counts.size)
            counts = np.pad(counts, (0, block.size - counts.size)) + block
    return counts


@dataclass(frozen=True)
class Entropy:
    """The entropy of a token, once those before it are known, as many as the order says."""

    bits: float
    """A token, of the sample's own frequencies."""
    seen_once: float
    """Share of the sample's runs of order + 1 tokens that occur only once in it; where it is large, `bits` is far too
    small, for a context that occurs once seems to tell for sure what follows."""


def conditional_entropies(sample: Sample) -> tuple[Entropy | None, Entropy | None, Entropy | None]:
    """The entropies of order 0, 1 and 2; None where the sample is too short for an order, or the vocabulary too large.

    All are counted at the same places, those that two more tokens follow.
    """
    largest = max(int(piece.max()) for piece in sample)
    length = max(piece.size for piece in sample)
    # Runs of `depth` tokens as one number each, in base `base`.
    base, depth = largest + 1, 1
    while depth < min(3, length) and base ** (depth + 1) <= _LARGEST_CODE:
        depth += 1
    codes = np.concatenate([_codes(piece, base, depth) for piece in sample])
    codes.sort()
    before, found = 0.0, []
    for order in range(depth):
        # A sorted list of runs is also one of their beginnings, so it needs no sorting again.
        joint, seen_once = _entropy_of_sorted(codes // codes.dtype.type(base ** (depth - 1 - order)))
        found.append(Entropy(max(0.0, joint - before), seen_once))  # rounding may leave -1e-16
        before = joint
    return (*found, *(None for _ in range(3 - depth)))  # type: ignore[return-value]


def _codes(piece: npt.NDArray[Any], base: int, depth: int) -> npt.NDArray[Any]:
    """Each run of `depth` tokens of `piece` as one number, the first token being its highest digit."""
    dtype = np.uint32 if base**depth <= 1 << 32 else np.uint64
    count = max(0, piece.size - depth + 1)
    codes = np.zeros(count, dtype=dtype)
    for offset in range(depth):
        codes *= dtype(base)
        codes += piece[offset : offset + count].astype(dtype)
    return codes


def _entropy_of_sorted(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Entropy in bits of the frequencies of `values` (n,), equal ones beside each other; share of those without one."""
    starts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
    counts = np.diff(starts, append=values.size)
    entropy = float(np.log2(values.size) - (counts * np.log2(counts)).sum() / values.size)
    return entropy, int(np.count_nonzero(counts == 1)) / values.size


def xz_size(data: bytes, progress: Progress | None = None) -> int:
    """Bytes that `xz -6` makes of `data`."""
    compressor = lzma.LZMACompressor(preset=XZ_PRESET)
    size = 0
    for first in range(0, len(data), 1 << 18):
        block = data[first : first + (1 << 18)]
        size += len(compressor.compress(block))
        if progress is not None:
            progress(len(block))
    return size + len(compressor.flush())


@dataclass(frozen=True)
class Figures:
    """What a sample of a split amounts to."""

    num_sampled: int
    """Tokens in the sample."""
    num_bytes: int
    """Bytes of text that these stand for; of the tokens themselves where the vocabulary is unknown."""
    counts: Int64
    """How often each token occurs in the sample: (v,)."""
    entropies: tuple[Entropy | None, Entropy | None, Entropy | None]
    """Of order 0, 1 and 2."""
    xz_bits: float
    """Bits a token that xz needs."""


def figures_of(opened: OpenedSplit, max_tokens: int = DEFAULT_SAMPLE, stage: Stage = silent_stage) -> Figures:
    """Take a sample of at most `max_tokens` tokens and measure it; errors as in `take_sample`."""
    sample = take_sample(opened.dataset.tokens, max_tokens)
    size = 0 if opened.vocabulary is None else opened.vocabulary.size
    counts, entropies = count_symbols(sample, size), conditional_entropies(sample)
    data = b"".join(opened.text_of(piece) or piece.tobytes() for piece in sample)
    with stage("Compressing with xz", len(data)) as progress:
        packed = xz_size(data, progress)
    num_tokens = sum(piece.size for piece in sample)
    return Figures(num_tokens, len(data), counts, entropies, 8 * packed / num_tokens)


def verify_split(corpus: Corpus, name: SplitName, progress: Progress | None = None) -> None:
    """DataError unless the tokens of the split `name` have the hash that the card of `corpus` gives them."""
    corpus.split(name)  # its sizes first, which is faster
    path, wanted = bin_path(corpus.folder / name), corpus.card.splits[name].sha256
    found = hash_file(path, "sha256", progress)
    if found != wanted:
        raise DataError(
            f"the split '{name}' of {corpus.folder} is damaged: the sha256 of {path.name} is {found}, but {CARD_NAME} "
            f"gives {wanted}; copy the folder again or prepare it again: {PREPARE} {corpus.folder} --overwrite"
        )
