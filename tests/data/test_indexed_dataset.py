"""The dataset format byte by byte: written, mapped and read back; damage is refused."""

import struct
from pathlib import Path

import numpy as np
import pytest

from megachar.base.errors import DataError
from megachar.data.indexed_dataset import DTYPES, IndexedDataset, dtype_code
from tests.corpora.corpora_by_hand import write_dataset
from tests.draws import fresh_rng


def rng() -> np.random.Generator:
    return fresh_rng()  # fresh inputs each time


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def index_bytes(
    code: int,
    lengths: list[int],
    offsets: list[int],
    boundaries: list[int],
    magic: bytes = b"MMIDIDX\0\0",
    version: int = 1,
) -> bytes:
    """An `.idx` written by hand, field by field, from the format's description."""
    return b"".join(
        [
            magic,
            struct.pack("<Q", version),
            struct.pack("<B", code),
            struct.pack("<Q", len(lengths)),
            struct.pack("<Q", len(boundaries)),
            struct.pack(f"<{len(lengths)}i", *lengths),
            struct.pack(f"<{len(offsets)}q", *offsets),
            struct.pack(f"<{len(boundaries)}q", *boundaries),
        ]
    )


def put(folder: Path, data: bytes, index: bytes) -> Path:
    (folder / "d.bin").write_bytes(data)
    (folder / "d.idx").write_bytes(index)
    return folder / "d"


def test_bytes_on_disk(tmp_path: Path) -> None:
    # One document crosses the longest sequence, an empty one leaves no trace, one is exactly the longest sequence.
    documents = [[1, 2, 300, 4, 5], [], [6, 7, 8], [9]]
    write_dataset(tmp_path / "d", documents, "uint16", longest=3)
    assert (tmp_path / "d.bin").read_bytes() == struct.pack("<9H", 1, 2, 300, 4, 5, 6, 7, 8, 9)
    assert (tmp_path / "d.idx").read_bytes() == index_bytes(8, [3, 2, 3, 1], [0, 6, 10, 16], [0, 2, 3, 4])
    assert names(tmp_path) == ["d.bin", "d.idx"]


def test_reads_an_index_written_by_hand(tmp_path: Path) -> None:
    prefix = put(tmp_path, struct.pack("<5i", 70000, -2, 3, 4, 5), index_bytes(4, [2, 2, 1], [0, 8, 16], [0, 1, 3]))
    dataset = IndexedDataset(prefix)
    assert dataset.dtype == np.int32
    assert (dataset.num_tokens, len(dataset), dataset.num_sequences, dataset.num_documents) == (5, 5, 3, 2)
    assert dataset.tokens.tolist() == [70000, -2, 3, 4, 5]
    assert dataset.sequence_lengths.tolist() == [2, 2, 1]
    assert dataset.document_indices.tolist() == [0, 1, 3]


@pytest.mark.parametrize("code", DTYPES)
def test_round_trip_of_every_dtype(tmp_path: Path, code: int) -> None:
    dtype = np.dtype(DTYPES[code])
    assert dtype_code(dtype.newbyteorder("=")) == code
    documents = [rng().integers(0, 100, size=rng().integers(1, 50)).astype(dtype) for _ in range(20)]
    write_dataset(tmp_path / "a.b", documents, dtype, longest=7)
    dataset = IndexedDataset(tmp_path / "a.b")
    assert dataset.dtype == dtype
    assert dataset.num_documents == 20
    np.testing.assert_array_equal(dataset.tokens, np.concatenate(documents))
    assert dataset.sequence_lengths.max() <= 7
    ends = np.concatenate(([0], np.cumsum(dataset.sequence_lengths)))[dataset.document_indices]
    assert ends.tolist() == np.cumsum([0] + [len(document) for document in documents]).tolist()


def test_everything_is_memory_mapped(tmp_path: Path) -> None:
    write_dataset(tmp_path / "d", [[1, 2], [3]])
    dataset = IndexedDataset(tmp_path / "d")
    for array in (dataset.tokens, dataset.sequence_lengths, dataset.document_indices):
        assert isinstance(array, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        dataset.tokens[0] = 7


def test_dtype_without_a_code() -> None:
    with pytest.raises(DataError, match="cannot hold tokens of type uint32: use one of uint8, int8"):
        dtype_code(np.uint32)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no dataset at .*neither .*d\.bin nor .*d\.idx exists; prepare the dataset"):
        IndexedDataset(tmp_path / "d")
    write_dataset(tmp_path / "d", [[1]])
    with pytest.raises(DataError, match=r"give the name without \.bin: .*/d$"):
        IndexedDataset(tmp_path / "d.bin")
    for suffix in (".bin", ".idx"):
        whole = (tmp_path / f"d{suffix}").rename(tmp_path / "elsewhere")
        with pytest.raises(DataError, match=rf"d\{suffix} is missing beside its other half"):
            IndexedDataset(tmp_path / "d")
        whole.rename(tmp_path / f"d{suffix}")


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_empty_files(tmp_path: Path, suffix: str) -> None:
    write_dataset(tmp_path / "d", [[1]])
    (tmp_path / f"d{suffix}").write_bytes(b"")
    with pytest.raises(DataError, match=rf"d\{suffix} is empty \(0 bytes\)"):
        IndexedDataset(tmp_path / "d")


def test_every_truncation_of_the_index_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "d", [[1, 2], [3]])
    whole = (tmp_path / "d.idx").read_bytes()
    for size in range(1, len(whole)):
        (tmp_path / "d.idx").write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"d\.idx (is cut off|is no Megatron index|has .*: it is cut off)"):
            IndexedDataset(tmp_path / "d")
    (tmp_path / "d.idx").write_bytes(whole + b"\0")
    with pytest.raises(DataError, match=r"has 83 bytes, but its header \(2 sequences, 3 .* needs 82: it is not of"):
        IndexedDataset(tmp_path / "d")


@pytest.mark.parametrize("data", [b"\1", b"\1\2\3\4\5"])
def test_tokens_of_another_size_are_refused(tmp_path: Path, data: bytes) -> None:
    prefix = put(tmp_path, data, index_bytes(1, [3], [0], [0, 1]))
    with pytest.raises(DataError, match=rf"d\.bin has {len(data)} bytes, but d\.idx ends at byte 3"):
        IndexedDataset(prefix)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (index_bytes(1, [3], [0], [0, 1], magic=b"TNTIDX\0\0\0"), r"is no Megatron index: it starts with b'TNTIDX"),
        (index_bytes(1, [3], [0], [0, 1], version=2), "has format version 2; this megachar reads version 1"),
        (index_bytes(9, [3], [0], [0, 1]), "unknown dtype code 9; known are 1 to 8"),
        (index_bytes(1, [], [], [0]), "holds no text: 0 sequences and 1 document"),
        (index_bytes(1, [3], [0], [0]), "holds no text: 1 sequences and 1 document"),
        (index_bytes(1, [3], [0], [0, 2]), "its documents cover sequences 0 to 2 instead of 0 to 1"),
        (index_bytes(1, [3], [0], [1, 1]), "its documents cover sequences 1 to 1 instead of 0 to 1"),
    ],
)
def test_foreign_or_damaged_index(tmp_path: Path, index: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        IndexedDataset(put(tmp_path, b"\1\2\3", index))


@pytest.mark.parametrize(
    ("lengths", "offsets", "message"),
    [
        ([1, 2], [1, 1], r"sequence 0 \(1 tokens\) starts at byte 1, but the one before it ends at byte 0"),
        ([1, 1, 1], [0, 0, 2], r"sequence 1 \(1 tokens\) starts at byte 0, but the one before it ends at byte 1"),
        ([1, 1], [0, 2], r"sequence 1 .* starts at byte 2, .* ends at byte 1\. .*contiguous in the \.bin"),
        ([4, -1, 0], [0, 4, 3], r"sequence 1 \(-1 tokens\)"),
    ],
)
def test_sequences_must_be_contiguous(tmp_path: Path, lengths: list[int], offsets: list[int], message: str) -> None:
    dataset = IndexedDataset(put(tmp_path, b"\1\2\3", index_bytes(1, lengths, offsets, [0, len(lengths)])))
    with pytest.raises(DataError, match=message):
        _ = dataset.tokens


def test_contiguity_is_checked_across_blocks(tmp_path: Path) -> None:
    lengths = rng().integers(0, 9, size=50)
    lengths[-1] = 1
    offsets = np.concatenate(([0], np.cumsum(lengths)[:-1])) * 2
    data = bytes(int(lengths.sum()) * 2)
    good = IndexedDataset(put(tmp_path, data, index_bytes(8, lengths.tolist(), offsets.tolist(), [0, 50])))
    good._check_contiguous(block=7)
    at = int(rng().integers(0, 49))
    offsets[at] += 2
    bad = IndexedDataset(put(tmp_path, data, index_bytes(8, lengths.tolist(), offsets.tolist(), [0, 50])))
    with pytest.raises(DataError, match=rf"sequence {at} "):
        bad._check_contiguous(block=7)
