"""Inputs and targets cut from a text by hand, and where evenly spaced windows start."""

from pathlib import Path

import numpy as np
import pytest

from megachar.base.errors import DataError
from megachar.data.batches import evenly_spaced_starts
from megachar.data.indexed_dataset import IndexedDataset
from tests.corpora.corpora_by_hand import write_dataset
from tests.data.reading import read_windows
from tests.draws import fresh_rng


@pytest.mark.parametrize("num_targets", [1, 2, 5])
def test_inputs_and_targets(tmp_path: Path, num_targets: int) -> None:
    rng = fresh_rng()
    text = rng.integers(0, 256, size=500).astype(np.uint8)
    write_dataset(tmp_path / "d", [text])
    tokens = IndexedDataset(tmp_path / "d").tokens
    context = 12
    starts = np.append(rng.integers(0, 500 - context - num_targets, size=6), 500 - context - num_targets)
    inputs, targets = read_windows(tokens, starts, context, num_targets)
    assert inputs.shape == (7, context)
    assert targets.shape == (7, context, num_targets)
    for b, start in enumerate(starts):
        for t in range(context):
            assert inputs[b, t] == text[start + t]
            assert [int(x) for x in targets[b, t]] == [int(text[start + t + 1 + j]) for j in range(num_targets)]
    for array in (inputs, targets):
        # What torch.from_numpy takes without a warning or a copy.
        assert type(array) is np.ndarray
        assert array.dtype == np.int64
        assert array.flags.c_contiguous
        assert array.flags.writeable


@pytest.mark.parametrize("start", [-1, 9])
def test_windows_outside_the_text(start: int) -> None:
    with pytest.raises(AssertionError, match="window"):
        read_windows(np.arange(20), np.array([0, start]), 10, 2)


@pytest.mark.parametrize("num_tokens", [100, 1000, 1003, 12345])
def test_evenly_spaced_starts(num_tokens: int) -> None:
    for count in (1, 2, 3, 7, 10):
        starts = evenly_spaced_starts(num_tokens, 10, count)
        assert starts.shape == (count,)
        assert starts.dtype == np.int64
        gaps = np.diff(starts)
        assert starts[0] == 0
        if count > 1:
            assert starts[-1] == num_tokens - 10
            assert gaps.max() - gaps.min() <= 1  # even
            assert gaps.min() >= 10  # no overlap: even 10 x 10 of 100 tokens fit


def test_evenly_spaced_starts_of_a_short_or_huge_split() -> None:
    assert evenly_spaced_starts(12, 10, 5).tolist() == [0, 0, 1, 1, 2]
    assert evenly_spaced_starts(10, 10, 2).tolist() == [0, 0]
    assert evenly_spaced_starts(10**15, 514, 10_000)[-1] == 10**15 - 514
    with pytest.raises(DataError, match="has 9 tokens, but one window needs 10"):
        evenly_spaced_starts(9, 10, 2)
