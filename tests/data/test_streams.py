import secrets
from typing import Any

import numpy as np
import pytest

from megachar.data.batches import read_windows
from megachar.data.streams import Segments, Streams, streams_of_rank
from megachar.errors import DataError


def all_of(streams: Streams, step: int) -> Segments:
    return streams.segments(step, np.arange(streams.num_streams))


@pytest.fixture
def streams() -> Streams:
    """Up to 9 streams of several segments, with some of the text left over."""
    seed = secrets.randbits(31)
    print(f"seed {seed}")  # pytest shows it when the test fails
    rng = np.random.default_rng(seed)
    num_streams, length = int(rng.integers(1, 10)), int(rng.integers(1, 12))
    characters = num_streams * (length * int(rng.integers(2, 7)) + int(rng.integers(length))) + 1
    return Streams(characters + int(rng.integers(num_streams)), num_streams, length)


def test_streams_by_hand() -> None:
    """23 characters, 2 streams of 11 with a target after each, segments of 4: 2 steps an epoch."""
    streams = Streams(23, 2, 4)
    assert (streams.characters_per_stream, streams.segments_per_epoch) == (11, 2)
    found = [(all_of(streams, step).starts.tolist(), all_of(streams, step).epochs.tolist()) for step in range(5)]
    assert found == [([0, 11], [0, 0]), ([4, 15], [0, 0]), ([0, 11], [1, 1]), ([4, 15], [1, 1]), ([0, 11], [2, 2])]
    assert [all_of(streams, step).resets.tolist() for step in range(3)] == [[True] * 2, [False] * 2, [True] * 2]


def test_text_of_a_stream_is_contiguous_until_it_begins_anew(streams: Streams) -> None:
    before = all_of(streams, 0)
    assert before.resets.all()
    for step in range(1, 3 * streams.segments_per_epoch + 1):
        now = all_of(streams, step)
        np.testing.assert_array_equal(now.resets, step % streams.segments_per_epoch == 0)
        np.testing.assert_array_equal(now.epochs, step // streams.segments_per_epoch)
        following = np.where(now.resets, all_of(streams, 0).starts, before.starts + streams.segment_length)
        np.testing.assert_array_equal(now.starts, following)
        before = now


def test_an_epoch_reads_no_character_twice_and_hardly_leaves_any_out(streams: Streams) -> None:
    for num_characters in range(streams.num_streams * streams.segment_length + 1, 400, 37):
        own = Streams(num_characters, streams.num_streams, streams.segment_length)
        text, read = np.arange(num_characters), []
        for step in range(own.segments_per_epoch):
            inputs, targets = read_windows(text, all_of(own, step).starts, own.segment_length, 1)
            np.testing.assert_array_equal(targets[..., 0], inputs + 1)
            read.append(inputs)
        found = np.concatenate(read).ravel()
        assert np.unique(found).size == found.size
        assert num_characters - found.size <= own.num_streams * own.segment_length


@pytest.mark.parametrize("data_size", [1, 2, 3, 7])
def test_any_number_of_ranks_reads_the_same_segments(data_size: int, streams: Streams) -> None:
    """And each rank's streams are its own throughout, in their text's order."""
    step = 2 * streams.segments_per_epoch - 1
    whole, found = all_of(streams, step), {}
    for rank in range(data_size):
        own = streams_of_rank(streams.num_streams, rank, data_size)
        assert all(number % data_size == rank for number in own)
        part = streams.segments(step, own)
        found.update(zip(part.streams.tolist(), part.starts.tolist(), strict=True))
    assert found == dict(zip(whole.streams.tolist(), whole.starts.tolist(), strict=True))


def test_places_far_out_are_exact() -> None:
    """A terabyte of text and 10^12 steps: nothing overflows."""
    streams = Streams(10**12, 100, 250)
    segments = streams.segments(10**12, np.array([99]))
    epoch, place = divmod(10**12, 9_999_999_999 // 250)
    assert segments.starts.tolist() == [99 * 9_999_999_999 + place * 250]
    assert segments.epochs.tolist() == [epoch]


@pytest.mark.parametrize("arguments", [(0, 1, 1), (1, 1, 1), (400, 4, 100), (10, 100, 1)])
def test_text_too_short_for_the_streams(arguments: Any) -> None:
    characters, number, length = arguments
    with pytest.raises(
        DataError, match=rf"{characters} characters, too few for {number} streams .* {length} char.*shorter"
    ):
        Streams(*arguments)
    assert Streams(number * length + 1, number, length).segments_per_epoch == 1
