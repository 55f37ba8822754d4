"""The dataset format byte by byte: written, mapped and read back; crashes mix nothing, damage is refused."""

import struct
from pathlib import Path

import numpy as np
import pytest

from megachar.base.errors import DataError
from megachar.data.indexed_dataset import DTYPES, IndexedDataset, IndexedDatasetWriter, dtype_code
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


def write(prefix: Path, documents: list[list[int]], dtype: str = "uint8") -> None:
    with IndexedDatasetWriter(prefix, dtype) as writer:
        for document in documents:
            writer.append(document)
            writer.end_document()


def test_bytes_on_disk(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "d", np.uint16, max_sequence_tokens=3) as writer:
        writer.append([1, 2])
        writer.append([300, 4, 5])  # crosses the longest sequence: 3 + 2
        writer.end_document()
        writer.end_document()  # an empty document leaves no trace
        writer.append([6, 7, 8])  # exactly the longest sequence
        writer.end_document()
        writer.append(np.array([9], dtype=np.int64))
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
    with IndexedDatasetWriter(tmp_path / "a.b", dtype, max_sequence_tokens=7) as writer:
        for document in documents:
            for chunk in np.array_split(document, 3):
                writer.append(chunk)
            writer.end_document()
    dataset = IndexedDataset(tmp_path / "a.b")
    assert dataset.dtype == dtype
    assert dataset.num_documents == 20
    np.testing.assert_array_equal(dataset.tokens, np.concatenate(documents))
    assert dataset.sequence_lengths.max() <= 7
    ends = np.concatenate(([0], np.cumsum(dataset.sequence_lengths)))[dataset.document_indices]
    assert ends.tolist() == np.cumsum([0] + [len(document) for document in documents]).tolist()


def test_everything_is_memory_mapped(tmp_path: Path) -> None:
    write(tmp_path / "d", [[1, 2], [3]])
    dataset = IndexedDataset(tmp_path / "d")
    for array in (dataset.tokens, dataset.sequence_lengths, dataset.document_indices):
        assert isinstance(array, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        dataset.tokens[0] = 7


def test_tokens_that_do_not_fit(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "d", np.uint8) as writer:
        with pytest.raises(DataError, match=r"from 3 to 256 do not fit the uint8 dataset .* \(0 to 255\)"):
            writer.append([3, 256])
        with pytest.raises(DataError, match="from -1 to 5 do not fit"):
            writer.append([-1, 5])
        with pytest.raises(DataError, match="type float64 do not fit the uint8"):
            writer.append(np.array([0.5]))
        writer.append(np.array([], dtype=np.float64))
        writer.append([255, 0])
    assert IndexedDataset(tmp_path / "d").tokens.tolist() == [255, 0]


def test_dtype_without_a_code(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot hold tokens of type uint32: use one of uint8, int8"):
        IndexedDatasetWriter(tmp_path / "d", np.uint32)


def test_folder_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the folder .*nowhere does not exist"):
        IndexedDatasetWriter(tmp_path / "nowhere" / "d", np.uint8)


def test_empty_dataset_is_refused(tmp_path: Path) -> None:
    writer = IndexedDatasetWriter(tmp_path / "d", np.uint8)
    writer.end_document()
    with pytest.raises(DataError, match="no token was written"):
        writer.close()
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_interrupted_writer_leaves_the_old_dataset(tmp_path: Path, error: type[BaseException]) -> None:
    write(tmp_path / "d", [[1, 2, 3]])

    def interrupted() -> None:
        with IndexedDatasetWriter(tmp_path / "d", np.uint8) as writer:
            writer.append([9] * 10)
            assert IndexedDataset(tmp_path / "d").tokens.tolist() == [1, 2, 3]
            raise error

    with pytest.raises(error):
        interrupted()
    assert names(tmp_path) == ["d.bin", "d.idx"]
    assert IndexedDataset(tmp_path / "d").tokens.tolist() == [1, 2, 3]
    write(tmp_path / "d", [[4], [5, 6]])
    assert IndexedDataset(tmp_path / "d").tokens.tolist() == [4, 5, 6]


def test_failure_while_closing_leaves_the_old_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "d", [[1, 2, 3]])

    def full(self: IndexedDatasetWriter) -> None:
        self._idx_temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(IndexedDatasetWriter, "_write_index", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "d", [[7, 7]])
    assert names(tmp_path) == ["d.bin", "d.idx"]
    assert IndexedDataset(tmp_path / "d").tokens.tolist() == [1, 2, 3]


def test_crash_between_the_renames_never_mixes_two_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "d", [[1, 2, 3]])
    rename = Path.replace

    def fails_on_index(self: Path, target: Path) -> Path:
        if target.suffix == ".idx":
            raise OSError("power cut")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", fails_on_index)
    with pytest.raises(OSError, match="power cut"):
        write(tmp_path / "d", [[7], [8, 9]])  # as many bytes as before: sizes alone would not tell
    with pytest.raises(DataError, match=r"d\.idx is missing beside its other half"):
        IndexedDataset(tmp_path / "d")


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no dataset at .*neither .*d\.bin nor .*d\.idx exists; prepare the dataset"):
        IndexedDataset(tmp_path / "d")
    write(tmp_path / "d", [[1]])
    with pytest.raises(DataError, match=r"give the name without \.bin: .*/d$"):
        IndexedDataset(tmp_path / "d.bin")
    (tmp_path / "d.bin").unlink()
    with pytest.raises(DataError, match=r"d\.bin is missing beside its other half"):
        IndexedDataset(tmp_path / "d")


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_empty_files(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "d", [[1]])
    (tmp_path / f"d{suffix}").write_bytes(b"")
    with pytest.raises(DataError, match=rf"d\{suffix} is empty \(0 bytes\)"):
        IndexedDataset(tmp_path / "d")


def test_every_truncation_of_the_index_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "d", [[1, 2], [3]])
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
