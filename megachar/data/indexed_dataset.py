"""Megatron's `.bin`/`.idx` datasets: tokens in one flat file, and an index of sequences and documents beside it.

`.bin` is nothing but tokens. `.idx` is little-endian: 9 bytes of magic; uint64 version; uint8 dtype code; uint64 N
sequences; uint64 M = documents + 1; N int32 lengths in tokens; N int64 byte offsets into `.bin`; M int64 document
boundaries in sequence numbers, the first 0 and the last N. There is no checksum in it: a reader can only
compare sizes.
"""

import struct
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megachar.base.errors import DataError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")  # magic, version, dtype code, N, M; "<" also means no padding
# Lengths are int32 on disk, so this bounds a sequence; a longer document becomes several sequences.
MAX_SEQUENCE_TOKENS = 2**31 - 1

DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f8", 7: "<f4", 8: "<u2"}

Int64 = npt.NDArray[np.int64]

PREPARE_AGAIN = "prepare it again (megachar corpus prepare ...) or copy both files again"


def bin_path(prefix: Path) -> Path:
    """The file of tokens of the dataset `prefix`. (Not `with_suffix`: a prefix may hold a dot.)"""
    return prefix.parent / f"{prefix.name}.bin"


def idx_path(prefix: Path) -> Path:
    """The index file of the dataset `prefix`."""
    return prefix.parent / f"{prefix.name}.idx"


def dtype_code(dtype: npt.DTypeLike) -> int:
    """The `.idx` code of `dtype`; DataError where the format has none (uint32, for one)."""
    wanted = np.dtype(dtype)
    for code, name in DTYPES.items():
        if np.dtype(name) == wanted.newbyteorder("<"):
            return code
    known = ", ".join(np.dtype(name).name for name in DTYPES.values())
    raise DataError(f"a .bin/.idx dataset cannot hold tokens of type {wanted.name}: use one of {known}")


class IndexedDataset:
    """A dataset on disk, memory-mapped: opening costs the same for any size, and reads only what is asked for.

    Opening compares the header with the sizes of both files, and looks at the index in places; DataError names the
    path, the numbers and the mend. `check_index` reads all of it.
    """

    def __init__(self, prefix: Path) -> None:
        """Open `prefix`.bin and `prefix`.idx."""
        self.prefix = Path(prefix)
        self._bin_path, self._idx_path = bin_path(self.prefix), idx_path(self.prefix)
        self._check_both_exist()
        self._opened = {path: _identity(path) for path in (self._bin_path, self._idx_path)}
        self._code, self.num_sequences, num_boundaries = self._read_header()
        self.dtype = np.dtype(DTYPES[self._code])
        """Type of a token, little-endian."""
        self.num_documents = num_boundaries - 1
        self.sequence_lengths = self._map_lengths(0, self.num_sequences)
        """Tokens of each sequence: (N,) int32."""
        self._offsets = self._map_offsets(0, self.num_sequences)
        at = HEADER.size + 12 * self.num_sequences
        self.document_indices = self._map_index("<i8", at, num_boundaries)
        """Sequence number where each document starts, and N at the end: (documents + 1,) int64."""
        self._check_ends()
        self.num_tokens = self._bin_path.stat().st_size // self.dtype.itemsize
        self._index_is_sound = False

    @cached_property
    def tokens(self) -> npt.NDArray[Any]:
        """All tokens (num_tokens,), a read-only memory map of `.bin`.

        DataError where a foreign index is seen not to lay its sequences one after another: then a flat view would be
        wrong. Of a large index 64 places are looked at, which finds an index in another order; a single damaged entry
        between them does not change a flat view.
        """
        block = 512
        if self.num_sequences <= 64 * block:
            self._check_contiguous()
        else:
            for place in range(64):
                first = place * (self.num_sequences - block) // 63
                self._check_sequences(first, first + block)
        return np.memmap(self._bin_path, dtype=self.dtype, mode="r", shape=(self.num_tokens,))

    def __len__(self) -> int:
        return self.num_tokens

    def check_index(self) -> None:
        """Read the whole index, once; DataError where its sequences or documents do not lie one after another.

        What `document_bounds` says is true only of an index that passes. Memory does not grow with its size.
        """
        if self._index_is_sound:
            return
        self._check_contiguous()
        for first, boundaries in self._document_blocks():
            wrong = np.flatnonzero(np.diff(boundaries) < 0)
            if wrong.size:
                at = int(wrong[0])
                raise DataError(
                    f"{self._idx_path} is damaged: document {first + at} has sequences {boundaries[at]} to "
                    f"{boundaries[at + 1]}; {PREPARE_AGAIN}"
                )
        self._index_is_sound = True

    def check_unchanged(self) -> None:
        """`DataError` where a file was replaced, written to or removed since it was opened; maps give no sign of it."""
        for path, opened in self._opened.items():
            if _identity(path) != opened:
                raise DataError(
                    f"{path} is no longer the file that was opened: it was replaced, written to or removed. Put it "
                    f"back, see that it is right (megachar corpus inspect {path.parent} --verify), and continue with "
                    f"--resume"
                )

    def document_bounds(self, positions: Int64) -> tuple[Int64, Int64]:
        """Of the documents that hold the tokens at `positions` (b,): first token and the one after the last, (b,) each.

        Two bisections in the memory-mapped index, which must have passed `check_index`.
        """
        sequences = _last_at_most(self._offsets, positions * self.dtype.itemsize)
        documents = _last_at_most(self.document_indices, sequences)
        boundaries = np.asarray(self.document_indices)
        firsts, stops = boundaries[documents], boundaries[documents + 1]
        return self._first_tokens(firsts, self._offsets), self._first_tokens(stops, self._offsets)

    def tokens_in_documents_below(self, num_tokens: int) -> int:
        """How many tokens lie in documents of fewer than `num_tokens` tokens. Reads the index once, in blocks."""
        return sum(int(lengths[lengths < num_tokens].sum()) for lengths in self.document_lengths())

    def document_lengths(self) -> Iterator[Int64]:
        """Tokens of each document, in order, in blocks (documents of the block,). Reads the index once."""
        for _, boundaries in self._document_blocks():
            # A map of its own, so that the pages it read are given back.
            yield np.diff(self._first_tokens(boundaries, self._map_offsets(0, self.num_sequences)))

    def _first_tokens(self, sequences: Int64, offsets: Int64) -> Int64:
        """Where these sequences (b,) start, in tokens; the end of the text for number N. `offsets` are all of them."""
        starts = np.full(sequences.shape, self.num_tokens, dtype=np.int64)
        inside = sequences < self.num_sequences
        starts[inside] = np.asarray(offsets)[sequences[inside]] // self.dtype.itemsize
        return starts

    def _document_blocks(self, block: int = 1 << 16) -> Iterator[tuple[int, Int64]]:
        """`document_indices` in blocks: the number of the first document, and its and the others' boundaries."""
        at = HEADER.size + 12 * self.num_sequences
        for first in range(0, self.num_documents, block):
            count = min(block, self.num_documents - first) + 1
            yield first, np.asarray(self._map_index("<i8", at + 8 * first, count))

    def _check_both_exist(self) -> None:
        missing = [path for path in (self._bin_path, self._idx_path) if not path.is_file()]
        if len(missing) == 1:
            raise DataError(f"{missing[0]} is missing beside its other half: {PREPARE_AGAIN}")
        if missing:
            mend = f"prepare the dataset (megachar corpus prepare ... --output {self.prefix.parent})"
            if self.prefix.suffix in (".bin", ".idx"):
                mend = f"give the name without {self.prefix.suffix}: {self.prefix.with_suffix('')}"
            raise DataError(f"no dataset at {self.prefix}: neither {missing[0]} nor {missing[1]} exists; {mend}")
        for path in (self._bin_path, self._idx_path):
            if path.stat().st_size == 0:
                raise DataError(f"{path} is empty (0 bytes): {PREPARE_AGAIN}")

    def _read_header(self) -> tuple[int, int, int]:
        """Dtype code, N and M, once they fit the size of the index file."""
        path = self._idx_path
        with path.open("rb") as file:
            raw = file.read(HEADER.size)
        if not raw.startswith(MAGIC):
            raise DataError(
                f"{path} is no Megatron index: it starts with {raw[: len(MAGIC)]!r} instead of {MAGIC!r}; "
                "old 'TNTIDX' and Hugging Face files must be converted, or the text prepared again"
            )
        if len(raw) < HEADER.size:
            raise DataError(f"{path} is cut off: {len(raw)} bytes of a {HEADER.size}-byte header; {PREPARE_AGAIN}")
        _, version, code, num_sequences, num_boundaries = HEADER.unpack(raw)
        if version != VERSION:
            raise DataError(f"{path} has format version {version}; this megachar reads version {VERSION}")
        if code not in DTYPES:
            raise DataError(f"{path} has the unknown dtype code {code}; known are {min(DTYPES)} to {max(DTYPES)}")
        expected, size = HEADER.size + 12 * num_sequences + 8 * num_boundaries, path.stat().st_size
        if size != expected:
            raise DataError(
                f"{path} has {size:,} bytes, but its header ({num_sequences:,} sequences, {num_boundaries:,} document "
                f"boundaries) needs {expected:,}: it is {'cut off' if size < expected else 'not of this format'}; "
                f"{PREPARE_AGAIN}"
            )
        if num_sequences == 0 or num_boundaries < 2:
            raise DataError(
                f"{path} holds no text: {num_sequences} sequences and {num_boundaries} document boundaries; "
                f"{PREPARE_AGAIN}"
            )
        return code, num_sequences, num_boundaries

    def _map_lengths(self, first: int, stop: int) -> npt.NDArray[np.int32]:
        return self._map_index("<i4", HEADER.size + 4 * first, stop - first)

    def _map_offsets(self, first: int, stop: int) -> Int64:
        return self._map_index("<i8", HEADER.size + 4 * self.num_sequences + 8 * first, stop - first)

    def _map_index(self, dtype: str, offset: int, count: int) -> npt.NDArray[Any]:
        return np.memmap(self._idx_path, dtype=dtype, mode="r", offset=offset, shape=(count,))

    def _check_ends(self) -> None:
        """What can be checked without reading the whole index: the first and last entries."""
        first, last = int(self.document_indices[0]), int(self.document_indices[-1])
        if (first, last) != (0, self.num_sequences):
            raise DataError(
                f"{self._idx_path} is damaged: its documents cover sequences {first} to {last} instead of 0 to "
                f"{self.num_sequences}; {PREPARE_AGAIN}"
            )
        needed = int(self._offsets[-1]) + int(self.sequence_lengths[-1]) * self.dtype.itemsize
        size = self._bin_path.stat().st_size
        if size != needed:
            raise DataError(
                f"{self._bin_path} has {size:,} bytes, but {self._idx_path.name} ends at byte {needed:,}: "
                f"the two files do not belong together or one is cut off; {PREPARE_AGAIN}"
            )

    def _check_contiguous(self, block: int = 1 << 16) -> None:
        """Each sequence starts where the one before ends. Reads the index once, `block` sequences at a time."""
        for first in range(0, self.num_sequences, block):
            self._check_sequences(first, min(first + block, self.num_sequences))

    def _check_sequences(self, first: int, stop: int) -> None:
        """Sequences first to stop - 1 start where the one before each ends. Maps that part of the index alone."""
        before = max(first - 1, 0)
        lengths = np.asarray(self._map_lengths(before, stop)).astype(np.int64)
        offsets = np.asarray(self._map_offsets(before, stop))
        ends = offsets + lengths * self.dtype.itemsize
        starts = np.concatenate((offsets[:1] if first else [0], ends[:-1]))
        wrong = np.flatnonzero((offsets != starts) | (lengths < 0))
        if wrong.size:
            at = int(wrong[0])
            raise DataError(
                f"{self._idx_path}: sequence {before + at} ({lengths[at]} tokens) starts at byte {offsets[at]:,}, "
                f"but the one before it ends at byte {starts[at]:,}. megachar reads datasets whose sequences are "
                "contiguous in the .bin: write the dataset again, in order and without gaps"
            )


def _identity(path: Path) -> tuple[int, ...] | None:
    """What changes when the file is replaced or written to; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _last_at_most(increasing: Int64, values: Int64) -> Int64:
    """The last place (b,) in `increasing` whose entry is at most each of `values` (b,), which its first entry is.

    By bisection here, because `np.searchsorted` copies a whole map whose entries are not aligned in the file.
    """
    entries = np.asarray(increasing)
    low, high = np.zeros(values.shape, dtype=np.int64), np.full(values.shape, entries.size, dtype=np.int64)
    for _ in range(entries.size.bit_length()):
        middle = (low + high) >> 1
        above = entries[middle] > values
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return low
