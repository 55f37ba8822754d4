"""Datasets exchanged with Megatron-LM, through the reader and the writer of the published package `megatron-core`."""

import secrets
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from megachar.base.errors import DataError
from megachar.data.indexed_dataset import IndexedDataset
from tests.corpora.corpora_by_hand import write_dataset

DTYPES = ["uint8", "uint16", "int32"]


@pytest.fixture(scope="module")
def megatron() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it misses transformer-engine and apex, which datasets do not need
        return pytest.importorskip(
            "megatron.core.datasets.indexed_dataset",
            reason="megatron-core is not installed: pip install 'megachar[dev]'",
            exc_type=ImportError,
        )


@pytest.fixture
def rng() -> np.random.Generator:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def random_documents(rng: np.random.Generator, dtype: str) -> list[list[np.ndarray[Any, Any]]]:
    """Documents of one to five sequences of random tokens, over the whole range of the type."""
    limits = np.iinfo(dtype)
    documents = []
    for _ in range(int(rng.integers(1, 40))):
        sizes = rng.integers(1, 60, size=rng.integers(1, 6))
        documents.append([rng.integers(limits.min, limits.max, size, dtype=dtype, endpoint=True) for size in sizes])
    documents[0][0][:1], documents[-1][-1][-1:] = limits.min, limits.max
    return documents


def assert_documents(dataset: IndexedDataset, documents: list[list[np.ndarray[Any, Any]]]) -> None:
    """What our reader sees: the tokens, the sequences, and where the documents start and end."""
    dataset.check_index()
    np.testing.assert_array_equal(dataset.tokens, np.concatenate([s for document in documents for s in document]))
    assert dataset.sequence_lengths.tolist() == [len(s) for document in documents for s in document]
    ends = np.cumsum([sum(len(s) for s in document) for document in documents])
    first, stop = dataset.document_bounds(np.arange(len(dataset)))
    owner = np.searchsorted(ends, np.arange(len(dataset)), side="right")
    np.testing.assert_array_equal(stop, ends[owner])
    np.testing.assert_array_equal(first, np.concatenate(([0], ends[:-1]))[owner])


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_megatron_reads_ours(
    tmp_path: Path, megatron: ModuleType, rng: np.random.Generator, dtype: str, mmap: bool
) -> None:
    documents = [np.concatenate(document) for document in random_documents(rng, dtype)]
    write_dataset(tmp_path / "ours", documents, dtype, longest=37)
    theirs = megatron.IndexedDataset(str(tmp_path / "ours"), mmap=mmap)
    assert theirs.index.dtype == np.dtype(dtype)
    ours = IndexedDataset(tmp_path / "ours")
    assert theirs.sequence_lengths.tolist() == ours.sequence_lengths.tolist()
    assert theirs.document_indices.tolist() == ours.document_indices.tolist()
    assert theirs.sequence_lengths.max() <= 37  # so that long documents are several sequences
    for document, first, stop in zip(documents, theirs.document_indices, theirs.document_indices[1:], strict=False):
        np.testing.assert_array_equal(np.concatenate([theirs[int(n)] for n in range(first, stop)]), document)
        np.testing.assert_array_equal(np.concatenate(theirs[int(first) : int(stop)]), document)
    np.testing.assert_array_equal(theirs.get(0, offset=0, length=1), documents[0][:1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_we_read_megatrons(tmp_path: Path, megatron: ModuleType, rng: np.random.Generator, dtype: str) -> None:
    import torch

    documents = random_documents(rng, dtype)
    builder = megatron.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=getattr(np, dtype))
    for number, document in enumerate(documents):
        if number % 2:
            builder.add_document(np.concatenate(document), [len(sequence) for sequence in document])
        else:
            for sequence in document:
                builder.add_item(torch.from_numpy(sequence.astype(np.int64)))
            builder.end_document()
    builder.finalize(str(tmp_path / "theirs.idx"))
    dataset = IndexedDataset(tmp_path / "theirs")
    assert dataset.dtype == np.dtype(dtype)
    assert dataset.num_documents == len(documents)
    assert_documents(dataset, documents)


def test_we_read_what_megatron_merges(tmp_path: Path, megatron: ModuleType, rng: np.random.Generator) -> None:
    """Its merging tool writes the sequences of several datasets one after another."""
    parts = [random_documents(rng, "uint16") for _ in range(3)]
    for number, documents in enumerate(parts):
        write_dataset(tmp_path / f"part{number}", [np.concatenate(document) for document in documents], "uint16")
    builder = megatron.IndexedDatasetBuilder(str(tmp_path / "merged.bin"), dtype=np.uint16)
    for number in range(3):
        builder.add_index(str(tmp_path / f"part{number}"))
    builder.finalize(str(tmp_path / "merged.idx"))
    whole = [[np.concatenate(document)] for documents in parts for document in documents]
    assert_documents(IndexedDataset(tmp_path / "merged"), whole)


def test_empty_sequences_and_documents_of_megatron(tmp_path: Path, megatron: ModuleType) -> None:
    """Its builder writes what ours leaves out: sequences without tokens, and documents without sequences."""
    import torch

    builder = megatron.IndexedDatasetBuilder(str(tmp_path / "d.bin"), dtype=np.uint8)
    builder.end_document()
    for document in ([[], [1, 2], [], [3]], [], [[]], [[4, 5, 6]], [[]], []):
        for sequence in document:
            builder.add_item(torch.tensor(sequence, dtype=torch.int64))
        builder.end_document()
    builder.finalize(str(tmp_path / "d.idx"))
    dataset = IndexedDataset(tmp_path / "d")
    dataset.check_index()
    assert dataset.tokens.tolist() == [1, 2, 3, 4, 5, 6]
    first, stop = dataset.document_bounds(np.arange(6))
    assert first.tolist() == [0, 0, 0, 3, 3, 3]
    assert stop.tolist() == [3, 3, 3, 6, 6, 6]
    assert dataset.tokens_in_documents_below(4) == 6
    assert dataset.tokens_in_documents_below(3) == 0


def test_a_multimodal_dataset_is_refused(tmp_path: Path, megatron: ModuleType) -> None:
    import torch

    builder = megatron.IndexedDatasetBuilder(str(tmp_path / "d.bin"), dtype=np.uint8, multimodal=True)
    builder.add_item(torch.tensor([1, 2]), mode=1)
    builder.end_document()
    builder.finalize(str(tmp_path / "d.idx"))
    with pytest.raises(DataError, match=r"needs 62: it is not of this format"):
        IndexedDataset(tmp_path / "d")
