"""Windows that stay inside one document: every document is read by its length, every epoch reads all once."""

import secrets
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from megachar.base.errors import ConfigError, DataError
from megachar.config.sections.data import DataConfig
from megachar.data.blend import Blend
from megachar.data.documents import DocumentSampler
from megachar.data.indexed_dataset import IndexedDataset
from megachar.data.reader import training_reader, validation_reader
from tests.corpora.corpora_by_hand import random_documents, write_corpus, write_dataset
from tests.draws import fresh_seed

CONTEXT, WINDOW = 16, 18


@pytest.fixture
def rng() -> np.random.Generator:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def windows(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint64)


def dataset_of(folder: Path, rng: np.random.Generator, lengths: list[int]) -> tuple[IndexedDataset, np.ndarray]:
    """Documents of these lengths, in short sequences; and their ends."""
    write_dataset(folder / "d", random_documents(rng, lengths), longest=int(rng.integers(1, 40)))
    return IndexedDataset(folder / "d"), np.cumsum(lengths)


def lengths_of_all_kinds(rng: np.random.Generator) -> list[int]:
    """Short documents, of exactly a window, of whole cells, and long ones, in random order."""
    kinds = [1, 2, CONTEXT, WINDOW - 1, WINDOW, WINDOW + 1, 2 * CONTEXT, 3 * CONTEXT, 1000, *rng.integers(1, 200, 30)]
    return [int(length) for length in rng.permutation(kinds)]


@pytest.mark.parametrize("order", ["random", "epoch"])
def test_no_window_crosses_a_document(tmp_path: Path, rng: np.random.Generator, order: str) -> None:
    lengths = lengths_of_all_kinds(rng)
    dataset, ends = dataset_of(tmp_path, rng, lengths)
    sampler = DocumentSampler(dataset, WINDOW, CONTEXT, int(rng.integers(2**62)), order)  # type: ignore[arg-type]
    starts = sampler.window_starts(windows(5000))
    assert starts.dtype == np.int64
    assert starts.min() >= 0
    documents = np.searchsorted(ends, starts, side="right")
    assert np.all(starts + WINDOW <= ends[documents])
    # Every document that holds a window is read, and no other.
    assert set(documents.tolist()) == {number for number, length in enumerate(lengths) if length >= WINDOW}
    assert sampler.left_out == sum(length for length in lengths if length < WINDOW)


def test_random_windows_read_documents_by_length_and_reach_both_ends(tmp_path: Path, rng: np.random.Generator) -> None:
    lengths = [WINDOW + 3, 5, 60]
    dataset, ends = dataset_of(tmp_path, rng, lengths)
    starts = DocumentSampler(dataset, WINDOW, CONTEXT, fresh_seed(60), "random").window_starts(windows(40_000))
    first = starts[starts < ends[0]]
    share = (WINDOW + 3) / (WINDOW + 3 + 60)
    assert abs(first.size - 40_000 * share) < 6 * np.sqrt(40_000 * share * (1 - share))
    for inside, room in ((first, 4), (starts[starts >= ends[1]] - ends[1], 43)):
        counts = np.bincount(inside)
        assert counts.size == room
        # Each start stands for L / room positions, rounded: up to one position more or less, and the noise.
        expected, length = inside.size / room, WINDOW + 3 if room == 4 else 60
        assert np.all(np.abs(counts - expected) < expected * room / length + 6 * np.sqrt(expected))


def test_an_epoch_reads_every_whole_cell_once(tmp_path: Path, rng: np.random.Generator) -> None:
    lengths = [int(length) for length in rng.integers(WINDOW, 300, size=25)]  # none too short: nothing is drawn again
    dataset, ends = dataset_of(tmp_path, rng, [*lengths, WINDOW])
    sampler = DocumentSampler(dataset, WINDOW, CONTEXT, fresh_seed(60), "epoch")
    per_epoch, begins = sampler.windows_per_epoch, np.concatenate(([0], ends[:-1]))
    assert per_epoch == -(-int(ends[-1]) // CONTEXT)
    tails, num_epochs = Counter[int](), 60
    for epoch in range(num_epochs):
        starts = sampler.window_starts(windows(per_epoch) + np.uint64(epoch * per_epoch))
        seen = Counter(starts.tolist())
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            whole, rest = divmod(end - begin, CONTEXT)
            cells = [min(begin + CONTEXT * cell, end - WINDOW) for cell in range(whole + (rest > 0))]
            # A document's last two cells may start at the same place: both are moved back to its end.
            wanted = Counter(cells[:whole])
            found = Counter({start: seen[start] for start in set(cells)})
            extra = found - wanted
            assert not wanted - found, "a whole cell was left out"
            # The one place of an epoch past the end of the text is drawn at random, and may fall anywhere.
            assert extra.total() <= 2
            tails[end] += extra.total()
    # What remains of r tokens is read with probability r / context.
    for begin, end in zip(begins.tolist()[:-1], ends.tolist()[:-1], strict=True):
        share = (end - begin) % CONTEXT / CONTEXT
        assert abs(tails[end] - num_epochs * share) < 6 * np.sqrt(num_epochs * (share * (1 - share) + 0.05))


def test_epochs_differ_and_repeat_exactly(tmp_path: Path, rng: np.random.Generator) -> None:
    dataset, _ = dataset_of(tmp_path, rng, lengths_of_all_kinds(rng))
    seed = fresh_seed(60)
    for order in ("random", "epoch"):
        one, twin, other = (DocumentSampler(dataset, WINDOW, CONTEXT, s, order) for s in (seed, seed, seed ^ 1))  # type: ignore[arg-type]
        many = one.window_starts(windows(600))
        np.testing.assert_array_equal(many, twin.window_starts(windows(600)))
        assert np.count_nonzero(many == other.window_starts(windows(600))) < 60
        # A window does not depend on the batch it is read in, also where it had to be drawn again.
        single = [int(one.window_starts(windows(600)[n : n + 1])[0]) for n in range(0, 600, 7)]
        assert many[::7].tolist() == single


def test_short_documents_are_replaced_at_random(tmp_path: Path, rng: np.random.Generator) -> None:
    """Half of the text lies in short documents: half of an epoch is drawn from the long ones."""
    dataset, ends = dataset_of(tmp_path, rng, [WINDOW - 1] * 200 + [200 * (WINDOW - 1)])
    sampler = DocumentSampler(dataset, WINDOW, CONTEXT, fresh_seed(60), "epoch")
    assert sampler.left_out == int(ends[-2])
    starts = sampler.window_starts(windows(sampler.windows_per_epoch))
    assert starts.min() >= ends[-2]
    on_grid = np.unique(starts[(starts - ends[-2]) % CONTEXT == 0])
    assert on_grid.size >= 200 * (WINDOW - 1) // CONTEXT - 1  # every cell, but perhaps one that is moved back


def test_documents_far_apart(tmp_path: Path) -> None:
    """Positions and lengths beyond 2^32, without as many bytes."""
    (tmp_path / "d.bin").touch()
    sizes = [2**31 - 1] * 40 + [100, 2**31 - 1]
    import os
    import struct

    offsets = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    os.truncate(tmp_path / "d.bin", int(sum(sizes)))
    header = struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, 1, len(sizes), 4)
    parts = (np.array(sizes, "<i4"), offsets.astype("<i8"), np.array([0, 40, 41, 42], "<i8"))
    (tmp_path / "d.idx").write_bytes(header + b"".join(part.tobytes() for part in parts))
    dataset = IndexedDataset(tmp_path / "d")
    ends = np.array([sizes[0] * 40, sizes[0] * 40 + 100, sum(sizes)])
    for order in ("random", "epoch"):
        sampler = DocumentSampler(dataset, 514, 512, fresh_seed(60), order)  # type: ignore[arg-type]
        starts = sampler.window_starts(windows(3000))
        assert sampler.left_out == 100
        documents = np.searchsorted(ends, starts, side="right")
        assert np.all(starts + 514 <= ends[documents])
        assert 3000 / 41 / 3 < np.count_nonzero(documents == 2) < 3000 / 41 * 3


def test_evenly_spaced_windows(tmp_path: Path, rng: np.random.Generator) -> None:
    dataset, ends = dataset_of(tmp_path, rng, [100, 7, 200, 18])
    sampler = DocumentSampler(dataset, WINDOW, CONTEXT, 0, "random")
    starts = sampler.evenly_spaced_starts(40)
    assert starts[0] == 0
    assert starts[-1] == ends[-1] - WINDOW
    documents = np.searchsorted(ends, starts, side="right")
    assert np.all(starts + WINDOW <= ends[documents])
    assert np.all(np.diff(starts[documents == 2]) >= 0) or np.count_nonzero(np.diff(starts) < 0) <= 2
    np.testing.assert_array_equal(starts, sampler.evenly_spaced_starts(40))


def test_hardly_any_document_is_long_enough(tmp_path: Path, rng: np.random.Generator) -> None:
    dataset, _ = dataset_of(tmp_path, rng, [17, 3, 10])
    message = (
        r"30 of the 30 characters in .*/d are in documents shorter than a window of 18 .*, and would be left out: use"
    )
    with pytest.raises(DataError, match=message):
        DocumentSampler(dataset, WINDOW, CONTEXT, 0, "random")
    (tmp_path / "more").mkdir()
    dataset, _ = dataset_of(tmp_path / "more", rng, [17] * 110 + [18])
    with pytest.raises(DataError, match=r"1,870 of the 1,888 characters .* shorter context, or data\.windows=stream"):
        DocumentSampler(dataset, WINDOW, CONTEXT, 0, "epoch")


def test_seed_and_order(tmp_path: Path, rng: np.random.Generator) -> None:
    dataset, _ = dataset_of(tmp_path, rng, [100])
    with pytest.raises(ConfigError, match=r"seed -1 is outside"):
        DocumentSampler(dataset, WINDOW, CONTEXT, -1, "random")
    with pytest.raises(ConfigError, match="unknown order of windows 'sorted'"):
        DocumentSampler(dataset, WINDOW, CONTEXT, 0, "sorted")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("boundaries", "message"),
    [
        ([0, 3, 1, 4], r"d\.idx is damaged: document 1 has sequences 3 to 1"),
        ([0, 5, 4, 4], r"d\.idx is damaged: document 1 has sequences 5 to 4"),
        ([0, -1, 2, 4], r"d\.idx is damaged: document 0 has sequences 0 to -1"),
    ],
)
def test_damaged_document_boundaries(tmp_path: Path, boundaries: list[int], message: str) -> None:
    write_dataset(tmp_path / "d", [[1] * 20, [2] * 20, [3] * 20], longest=15)
    index = (tmp_path / "d.idx").read_bytes()
    write_dataset(tmp_path / "d", [[1] * 20, [2] * 20, [3] * 20, [4] * 20], longest=20)  # 4 sequences
    write_dataset(tmp_path / "d", [[1] * 40, [2] * 20, [3] * 20], longest=20)  # of 3 documents
    index = (tmp_path / "d.idx").read_bytes()
    assert IndexedDataset(tmp_path / "d").document_indices.tolist() == [0, 2, 3, 4]
    (tmp_path / "d.idx").write_bytes(index[:-32] + np.array(boundaries, dtype="<i8").tobytes())
    dataset = IndexedDataset(tmp_path / "d")
    assert dataset.tokens.size == 80  # windows that ignore documents can still be read
    with pytest.raises(DataError, match=message):
        DocumentSampler(dataset, WINDOW, CONTEXT, 0, "random")


def test_the_index_is_read_in_blocks(tmp_path: Path, rng: np.random.Generator) -> None:
    dataset, ends = dataset_of(tmp_path, rng, [int(length) for length in rng.integers(1, 30, size=50)])
    for block in (1, 7, 50, 51):
        blocks = list(dataset._document_blocks(block))
        assert [first for first, _ in blocks] == list(range(0, 50, block))
        whole = np.concatenate([boundaries[:-1] for _, boundaries in blocks])
        np.testing.assert_array_equal(whole, dataset.document_indices[:-1])
        assert all(b[-1] == dataset.document_indices[first + len(b) - 1] for first, b in blocks)
    lengths = np.diff(np.concatenate(([0], ends)))
    for limit in (1, 2, 15, 40):
        assert dataset.tokens_in_documents_below(limit) == lengths[lengths < limit].sum()


def test_readers_of_a_corpus(tmp_path: Path, rng: np.random.Generator) -> None:
    """Every document of one symbol: a window never holds two, in training and in validation."""
    for name in ("a", "b"):
        documents = {
            split: [[number + 1] * int(rng.integers(10, 90)) for number in range(99)] for split in ("train", "valid")
        }
        write_corpus(tmp_path / name, documents, longest=13)  # type: ignore[arg-type]
    for paths in ({"path": str(tmp_path / "a")}, {"blend": [{"path": str(tmp_path / n), "weight": 1} for n in "ab"]}):
        for order in ("random", "epoch"):
            config = DataConfig(**paths, windows="document", order=order)  # type: ignore[arg-type]
            blend = Blend.open(config)
            reader = training_reader(blend, config, CONTEXT, CONTEXT + 2, fresh_seed(60))
            for inputs, targets in (
                reader.read(windows(300)),
                validation_reader(blend, config, CONTEXT, CONTEXT + 2, 50).read(windows(50)),
            ):
                assert np.all(inputs == inputs[:, :1])
                assert np.all(targets == inputs[:, :1, None])
            assert reader.note.startswith("documents shorter than a window of 18 are left out: ")
            assert reader.note.count(" characters of ") == len(blend.corpora)
    stream = DataConfig(path=str(tmp_path / "a"))
    assert training_reader(Blend.open(stream), stream, CONTEXT, CONTEXT + 2, 0).note == ""


def test_the_error_names_the_split(tmp_path: Path) -> None:
    write_corpus(tmp_path / "a", {"train": [[1] * 50], "valid": [[1] * 9, [2] * 9]})
    config = DataConfig(path=str(tmp_path / "a"), windows="document")
    blend = Blend.open(config)
    training_reader(blend, config, CONTEXT, CONTEXT + 2, 0)
    with pytest.raises(DataError, match=r"valid split of .*/a: 18 of the 18 characters in"):
        validation_reader(blend, config, CONTEXT, CONTEXT + 2, 4)
