"""Turn plain text into a prepared corpus (`megachar.data.corpus`), in a stream: memory is that of one chunk."""

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megachar.data.corpus import (
    CARD_NAME,
    FORMAT_VERSION,
    SPLIT_NAMES,
    CorpusCard,
    SourceCard,
    SplitCard,
    SplitName,
    VocabularyCard,
)
from megachar.data.indexed_dataset import IndexedDatasetWriter, bin_path, fsync_folder, idx_path
from megachar.data.vocabulary import Vocabulary
from megachar.errors import DataError

CHUNK_BYTES = 16 << 20
DEFAULT_SPLIT = "90,5,5"  # of enwik8 and text8, in every paper

Progress = Callable[[int], None]
"""Called with the number of bytes done since the last call."""


@dataclass(frozen=True)
class SourceFile:
    """A plain-text file and the splits cut from it: consecutive pieces from byte 0 to the file's end."""

    path: Path
    pieces: tuple[tuple[SplitName, int], ...]
    """Each split with its number of bytes, in the order in which they lie in the file."""

    @property
    def num_bytes(self) -> int:
        """Size of the file when it was looked at."""
        return sum(size for _, size in self.pieces)


class WordCounter:
    """Counts words in chunks of text: whitespace-separated tokens plus line ends, whatever the cuts between the chunks.

    Whitespace is that of `bytes.split`: space, tab, newline, carriage return, vertical tab, form feed; a line end is a
    newline. The sum is what Mikolov's counts of Penn Treebank and WikiText use, where each line end is a token <eos>.
    """

    # Small enough that a block and its masks stay in the processor's cache: over 10 times faster than whole chunks.
    _block_bytes = 1 << 16

    def __init__(self) -> None:
        self.num_words = 0
        self._inside = False  # the text so far ends inside a token

    def update(self, text: npt.NDArray[np.uint8]) -> None:
        """Count the next bytes (any number,) of the text."""
        for first in range(0, text.size, self._block_bytes):
            block = text[first : first + self._block_bytes]
            # 9 to 13 are the other whitespace bytes; smaller ones wrap round to large numbers.
            space = (block == 32) | (block - np.uint8(9) < 5)
            starts = np.count_nonzero(space[:-1] & ~space[1:]) + int(not space[0] and not self._inside)
            self.num_words += int(starts) + int(np.count_nonzero(block == 10))
            self._inside = not space[-1]


def cut_by_position(path: Path, split: str = DEFAULT_SPLIT) -> list[SourceFile]:
    """Cut one text into train, valid and test at floor(bytes x percentage / 100), as "90,5,5" of it; 0 leaves one out.

    DataError where the file is missing or empty, the percentages are no shares of 100, or a share is below one byte.
    """
    percentages = parse_split(split)
    num_bytes = _text_size(path)
    stops = [int(num_bytes * sum(percentages[: number + 1]) / 100) for number in range(len(percentages))]
    sizes = [stop - start for start, stop in zip([0, *stops], stops, strict=False)]
    for name, percentage, size in zip(SPLIT_NAMES, percentages, sizes, strict=True):
        if percentage and not size:
            raise DataError(
                f"{path} has {num_bytes} bytes: too short to give the split '{name}' {float(percentage):g} % of it. "
                "Use a longer text or --split 100,0,0"
            )
    pieces = tuple((name, size) for name, size in zip(SPLIT_NAMES, sizes, strict=True) if size)
    return [SourceFile(Path(path), pieces)]


def one_file_per_split(files: Mapping[SplitName, Path]) -> list[SourceFile]:
    """Take each split from a file of its own; DataError where a file is missing or empty, or none is given."""
    if not files:
        raise DataError("no file to prepare: give one for train, valid or test")
    return [SourceFile(Path(files[name]), ((name, _text_size(files[name])),)) for name in SPLIT_NAMES if name in files]


def parse_split(split: str) -> tuple[Fraction, ...]:
    """The three percentages of "90,5,5", exactly (so that 99.8,0.1,0.1 adds up); DataError where they are not that."""
    parts = [part.strip() for part in split.split(",")]
    if len(parts) != len(SPLIT_NAMES) or not all(re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,9})?", part) for part in parts):
        raise DataError(
            f"the split {split!r} is not three non-negative percentages: write train,valid,test as in {DEFAULT_SPLIT}"
        )
    percentages = tuple(Fraction(part) for part in parts)
    if sum(percentages) != 100:
        raise DataError(f"the split {split!r} adds up to {float(sum(percentages)):g} %, not 100: try {DEFAULT_SPLIT}")
    return percentages


def prepare_corpus(
    sources: Sequence[SourceFile],
    output: Path,
    vocabulary: Vocabulary,
    *,
    overwrite: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
    progress: Progress | None = None,
) -> CorpusCard:
    """Write the corpus of `sources` to the folder `output` and return its card. Each split is one document.

    The folder is built under a temporary name beside `output` and renamed when it is whole, so an interruption leaves
    neither half a corpus nor, with `overwrite`, a damaged old one. DataError where `output` exists (and not
    `overwrite`), would be replaced though it is no corpus, or where a source changes while it is read.
    """
    output = Path(output).resolve()  # through a symbolic link: what is replaced is the folder, not the link
    check_output(sources, output, overwrite)
    source_cards: list[SourceCard] = []
    split_cards: dict[SplitName, SplitCard] = {}
    with _whole_folder(output) as folder:
        for source in sources:
            source_hash = hashlib.sha256()
            # Unbuffered: chunks are larger than any buffer, and read-ahead would hide a file that is cut meanwhile.
            with source.path.open("rb", buffering=0) as file:
                for name, size in source.pieces:
                    chunks = _read_chunks(file, size, chunk_bytes)
                    split_cards[name] = _write_split(chunks, folder / name, vocabulary, source_hash, progress)
                if os.fstat(file.fileno()).st_size != source.num_bytes:
                    raise DataError(f"{source.path} changed while it was read: try again once it is complete")
            source_cards.append(
                SourceCard(name=source.path.name, num_bytes=source.num_bytes, sha256=source_hash.hexdigest())
            )
        card = CorpusCard(
            format_version=FORMAT_VERSION,
            vocabulary=VocabularyCard(**vocabulary.card()),
            dtype=vocabulary.dtype.name,
            sources=tuple(source_cards),
            splits={name: split_cards[name] for name in SPLIT_NAMES if name in split_cards},
        )
        with (folder / CARD_NAME).open("w", encoding="utf-8") as card_file:
            card_file.write(card.to_json())
            card_file.flush()
            os.fsync(card_file.fileno())
    return card


def check_output(sources: Sequence[SourceFile], output: Path, overwrite: bool) -> None:
    """DataError unless the folder `output` may be written: it is new, or a corpus and nothing else to overwrite."""
    if not output.exists():
        return
    if not overwrite:
        raise DataError(f"the output {output} exists already: choose another folder or add --overwrite")
    if not output.is_dir():
        raise DataError(f"--overwrite replaces corpora, but {output} is a file: choose another folder")
    prefixes = [output / name for name in SPLIT_NAMES]
    ours = {CARD_NAME, *(path(prefix).name for prefix in prefixes for path in (bin_path, idx_path))}
    foreign = sorted(entry.name for entry in output.iterdir() if entry.name not in ours)
    if foreign:
        raise DataError(
            f"--overwrite would delete {output}, which holds what is no part of a corpus ({', '.join(foreign[:5])}"
            f"{', ...' if len(foreign) > 5 else ''}): choose another folder, or move those files away"
        )
    for source in sources:
        if source.path.resolve().is_relative_to(output):
            raise DataError(f"--overwrite would delete the input {source.path}: choose another output than {output}")


@contextmanager
def _whole_folder(output: Path) -> Iterator[Path]:
    """A new folder beside `output` that takes its name when the block ends well, and is removed otherwise."""
    unique = f"{os.getpid()}.{secrets.token_hex(4)}"
    building = output.with_name(f".{output.name}.new.{unique}")
    replaced = output.with_name(f".{output.name}.old.{unique}")
    try:
        building.mkdir(parents=True)
        yield building
        fsync_folder(building)
        if output.exists():
            output.rename(replaced)
        building.rename(output)
        fsync_folder(output.parent)
    except BaseException:  # also Ctrl-C
        if replaced.exists() and not output.exists():
            replaced.rename(output)
        shutil.rmtree(building, ignore_errors=True)
        raise
    if replaced.exists():
        shutil.rmtree(replaced)


def _text_size(path: Path) -> int:
    """Bytes of the text file `path`; DataError where it is missing, empty or no file."""
    path = Path(path)
    if not path.exists():
        raise DataError(f"the input {path} does not exist: check its name")
    if not path.is_file():
        raise DataError(f"the input {path} is not a regular file: give a plain-text file")
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"the input {path} is empty (0 bytes): give a file with text")
    return size


def _read_chunks(file: FileIO, num_bytes: int, chunk_bytes: int) -> Iterator[bytes]:
    """The next `num_bytes` of `file`, in chunks; DataError where it ends before."""
    remaining = num_bytes
    while remaining:
        chunk = file.read(min(chunk_bytes, remaining))
        if not chunk:
            raise DataError(f"{file.name} ended {remaining:,} bytes early: it changed while it was read; try again")
        remaining -= len(chunk)
        yield chunk


def _write_split(
    chunks: Iterator[bytes], prefix: Path, vocabulary: Vocabulary, source_hash: Any, progress: Progress | None
) -> SplitCard:
    """Encode the text of `chunks` into the dataset `prefix`, one document, hashing and counting on the way."""
    words, tokens_hash = WordCounter(), hashlib.sha256()
    num_bytes = num_tokens = 0
    with IndexedDatasetWriter(prefix, vocabulary.dtype) as writer:
        for chunk in chunks:
            source_hash.update(chunk)
            words.update(np.frombuffer(chunk, dtype=np.uint8))
            tokens = vocabulary.encode(chunk).astype(writer.dtype, copy=False)
            tokens_hash.update(tokens.data)
            writer.append(tokens)
            num_bytes += len(chunk)
            num_tokens += tokens.size
            if progress is not None:
                progress(len(chunk))
        writer.end_document()
        num_documents = writer.num_documents
    return SplitCard(
        num_tokens=num_tokens,
        num_documents=num_documents,
        num_bytes=num_bytes,
        num_words=words.num_words,
        sha256=tokens_hash.hexdigest(),
    )
