"""Joining encoded text into the dataset of a split: `.bin` and `.idx` in a stream, hashed on the way."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

from megachar.base.errors import DataError
from megachar.corpora.encoding import BLOCK_BYTES, EncodedBlock, Part, Tally, document_lengths
from megachar.data.corpus import SplitCard
from megachar.data.indexed_dataset import (
    DTYPES,
    HEADER,
    MAGIC,
    MAX_SEQUENCE_TOKENS,
    VERSION,
    bin_path,
    dtype_code,
    idx_path,
)
from megachar.data.vocabulary import Int64

NUM_BUFFERS = 4
SYNC_BYTES = 64 << 20
_INDEX_DOCUMENTS = 1 << 16

Result = TypeVar("Result")


class Digest:
    """A sha256 that is computed in a thread of its own, beside reading and writing. At most some blocks wait for it."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._hash = hashlib.sha256()
        self._waiting: list[Future[None]] = []

    def update(self, data: Any) -> "Future[None]":
        """Add a buffer, which must not change until the future is done."""
        while len(self._waiting) > 3:
            self._waiting.pop(0).result()
        future = self._pool.submit(self._hash.update, data)
        self._waiting.append(future)
        return future

    def begin_as(self, other: "Digest") -> None:
        """Take the data of `other` so far for what came first here, where nothing did yet."""
        other._finish()
        self._hash = other._hash.copy()

    def hexdigest(self) -> str:
        """The hash of all data."""
        self._finish()
        return self._hash.hexdigest()

    def _finish(self) -> None:
        while self._waiting:
            self._waiting.pop(0).result()


class BackgroundSync:
    """Sends a growing file to the disk piece by piece, so that there is little left to wait for at its end."""

    def __init__(self, file: BinaryIO, pool: ThreadPoolExecutor) -> None:
        self._file, self._pool = file, pool
        self._num_bytes = 0
        self._running: Future[None] | None = None

    def wrote(self, num_bytes: int) -> None:
        """Note that the file grew."""
        self._num_bytes += num_bytes
        if self._num_bytes >= SYNC_BYTES and (self._running is None or self._running.done()):
            self.wait()
            self._running = self._pool.submit(os.fdatasync, self._file.fileno())
            self._num_bytes = 0

    def wait(self) -> None:
        """Until nothing is under way; raises what went wrong."""
        if self._running is not None:
            self._running.result()
            self._running = None


class SplitWriter:
    """Writes the dataset of one split from blocks, parts or plain bytes, in the order of the corpus.

    A new source begins a new document. Memory does not grow with the number of documents: their lengths wait in a file.
    """

    def __init__(
        self,
        prefix: Path,
        dtype: npt.DTypeLike,
        hashing: ThreadPoolExecutor,
        syncing: ThreadPoolExecutor | None,
        max_sequence_tokens: int = MAX_SEQUENCE_TOKENS,
    ) -> None:
        """Start `prefix`.bin in a folder that will be thrown away if anything fails.

        `hashing` is one thread, `syncing` another that brings the data to the disk; None: that is left to the system.
        """
        self._prefix, self._max_sequence_tokens = prefix, max_sequence_tokens
        self._code = dtype_code(dtype)
        self.dtype = np.dtype(DTYPES[self._code])
        self._lengths_path = prefix.with_name(f".{prefix.name}.lengths")
        self._bin: BinaryIO = bin_path(prefix).open("wb")
        self._lengths: BinaryIO = self._lengths_path.open("w+b")
        self.digest = Digest(hashing)
        self._sync = None if syncing is None else BackgroundSync(self._bin, syncing)
        self._source: int | None = None
        self._open_tokens = self._num_documents = self._num_sequences = 0
        self.tally = Tally()
        """Of all that was added."""

    def begin_source(self, source: int) -> None:
        """What follows comes from source number `source`."""
        if source != self._source:
            self._end_document()
            self._source = source

    def append(self, source: int, block: EncodedBlock) -> None:
        """Add an encoded block."""
        self.begin_source(source)
        tokens = np.ascontiguousarray(block.tokens, dtype=self.dtype)
        self.digest.update(tokens.data)
        self._bin.write(tokens.data)
        lengths, self._open_tokens = document_lengths(tokens.size, block.ends, self._open_tokens)
        self._add_lengths(lengths)
        self._count(block.tally)

    def append_part(self, part: Part) -> None:
        """Add a part that another process wrote, and delete its files."""
        self.begin_source(part.source)
        with part.tokens_path.open("rb", buffering=0) as file:
            for buffer in pump(file, part.tally.num_tokens * self.dtype.itemsize, str(part.tokens_path)):
                buffer.hashed_by(self.digest)
                self._bin.write(buffer.data)
        closed = 0
        with part.lengths_path.open("rb") as lengths_file:
            for lengths in _read_lengths(lengths_file):
                closed += int(lengths.sum())
                lengths[0] += self._open_tokens
                self._open_tokens = 0
                self._add_lengths(lengths)
        self._open_tokens += part.tally.num_tokens - closed
        self._count(part.tally)
        for path in (part.tokens_path, part.lengths_path):
            path.unlink(missing_ok=True)

    def append_bytes(self, data: memoryview) -> None:
        """Add bytes that are tokens as they are, already given to `digest`; their words are added apart."""
        self._bin.write(data)
        self._open_tokens += len(data)
        self._count(Tally(len(data), len(data)))

    def close(self) -> SplitCard:
        """End the dataset, which is then on the disk for good if that was wanted; DataError where it has no token."""
        durable = self._sync is not None
        self._end_document()
        if not self._num_documents:
            raise DataError(f"the split '{self._prefix.name}' got no text: {self._why_empty()}")
        if self._sync is not None:
            self._sync.wait()
        finish(self._bin, durable)
        self._write_index(durable)
        self.abandon()
        return SplitCard(
            num_tokens=self.tally.num_tokens,
            num_documents=self._num_documents,
            num_bytes=self.tally.num_bytes,
            num_words=self.tally.words.num_words,
            sha256=self.digest.hexdigest(),
        )

    def _why_empty(self) -> str:
        if self.tally.num_skipped_lines:
            return (
                f"all of its lines are bad ({self.tally.num_skipped_lines:,}); name the right --json-key, or leave out "
                "--skip-bad-lines to see what is wrong with the first"
            )
        return "its share holds no document; use a longer text or give it none of it (--split 100,0,0)"

    def abandon(self) -> None:
        """Close the files, and remove the one that is no part of a dataset."""
        if self._sync is not None:
            with contextlib.suppress(OSError):
                self._sync.wait()
        for file in (self._bin, self._lengths):
            with contextlib.suppress(OSError):  # of a full disk, where even closing writes: it was raised before
                file.close()
        self._lengths_path.unlink(missing_ok=True)

    def _count(self, tally: Tally) -> None:
        self.tally.join(tally)
        if self._sync is not None:
            self._sync.wrote(tally.num_tokens * self.dtype.itemsize)

    def _end_document(self) -> None:
        self._add_lengths(np.array([self._open_tokens], dtype=np.int64))
        self._open_tokens = 0
        self.tally.words.end_document()

    def _add_lengths(self, lengths: Int64) -> None:
        """Note documents of these lengths (documents,); one without tokens leaves no trace, as in Megatron."""
        lengths = lengths[lengths > 0]
        self._lengths.write(lengths.astype("<i8", copy=False).data)
        self._num_documents += lengths.size
        self._num_sequences += int(self._sequences_of(lengths).sum())

    def _sequences_of(self, lengths: Int64) -> Int64:
        """Number of sequences of each document, (documents,)."""
        return (lengths + (self._max_sequence_tokens - 1)) // self._max_sequence_tokens

    def _documents(self) -> Iterator[Int64]:
        self._lengths.flush()
        self._lengths.seek(0)
        return _read_lengths(self._lengths)

    def _sequences(self) -> Iterator[Int64]:
        """Lengths of all sequences: of a document all full ones, then its rest."""
        for lengths in self._documents():
            counts = self._sequences_of(lengths)
            sequences = np.full(int(counts.sum()), self._max_sequence_tokens, dtype=np.int64)
            sequences[np.cumsum(counts) - 1] = lengths - (counts - 1) * self._max_sequence_tokens
            yield sequences

    def _write_index(self, durable: bool) -> None:
        with idx_path(self._prefix).open("wb") as file:
            file.write(HEADER.pack(MAGIC, VERSION, self._code, self._num_sequences, self._num_documents + 1))
            for sequences in self._sequences():
                file.write(sequences.astype("<i4").data)
            end = 0
            for sequences in self._sequences():
                ends = end + np.cumsum(sequences)
                file.write(((ends - sequences) * self.dtype.itemsize).astype("<i8", copy=False).data)
                end = int(ends[-1])
            file.write(bytes(8))
            end = 0
            for lengths in self._documents():
                boundaries = end + np.cumsum(self._sequences_of(lengths))
                file.write(boundaries.astype("<i8", copy=False).data)
                end = int(boundaries[-1])
            finish(file, durable)


class Buffer:
    """One of the buffers that `pump` fills in turn; not filled again while a digest still reads it."""

    def __init__(self, size: int) -> None:
        self._memory = memoryview(bytearray(size))
        self._readers: list[Future[Any]] = []
        self.data = self._memory[:0]

    def fill(self, file: IO[bytes], most: int) -> int:
        """Read the next bytes of `file`, at most `most`, once the last ones are done with; their number."""
        while self._readers:
            self._readers.pop().result()
        count = file.readinto(self._memory[:most])  # type: ignore[attr-defined]
        self.data = self._memory[:count]
        return int(count)

    def used_by(self, reader: "Future[Result]") -> "Future[Result]":
        """Keep the bytes until `reader` is done; gives it back."""
        self._readers.append(reader)
        return reader

    def hashed_by(self, digest: Digest) -> None:
        """Give the bytes to a digest."""
        self.used_by(digest.update(self.data))


def pump(file: IO[bytes], num_bytes: int, name: str, block_bytes: int = BLOCK_BYTES) -> Iterator[Buffer]:
    """The next `num_bytes` of an unbuffered file, block by block in buffers that are used again."""
    buffers = [Buffer(block_bytes) for _ in range(NUM_BUFFERS)]
    remaining, number = num_bytes, 0
    while remaining:
        buffer = buffers[number % len(buffers)]
        count = buffer.fill(file, min(block_bytes, remaining))
        if not count:
            raise DataError(f"{name} ended {remaining:,} bytes early: it changed while it was read; try again")
        remaining -= count
        number += 1
        yield buffer


def _read_lengths(file: IO[bytes]) -> Iterator[Int64]:
    """Lengths of documents from a file of them, in blocks (documents of the block,)."""
    while raw := file.read(8 * _INDEX_DOCUMENTS):
        yield np.frombuffer(raw, dtype="<i8").astype(np.int64)


def finish(file: IO[bytes], durable: bool) -> None:
    """Close a file that is written; with `durable`, once it is on the disk."""
    file.flush()
    if durable:
        os.fsync(file.fileno())
    file.close()
