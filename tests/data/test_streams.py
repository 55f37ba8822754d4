"""Streams read side by side: each is contiguous text, an epoch reads nothing twice and leaves hardly anything out."""

import secrets
from typing import Any

import numpy as np
import pytest

from megachar.base.errors import DataError
from megachar.data.sampler import Int64, window_numbers
from megachar.data.streams import Streams
from tests.data.reading import read_windows


def starts_at(streams: Streams, step: int) -> Int64:
    """Of every stream."""
    return streams.window_starts(window_numbers(step, 0, streams.num_streams, 1))


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
    found = [(starts_at(streams, step).tolist(), streams.epoch(step)) for step in range(5)]
    assert found == [([0, 11], 0), ([4, 15], 0), ([0, 11], 1), ([4, 15], 1), ([0, 11], 2)]


def test_text_of_a_stream_is_contiguous_until_it_begins_anew(streams: Streams) -> None:
    before = starts_at(streams, 0)
    for step in range(1, 3 * streams.segments_per_epoch + 1):
        now, anew = starts_at(streams, step), streams.epoch(step) > streams.epoch(step - 1)
        assert anew == (step % streams.segments_per_epoch == 0)
        np.testing.assert_array_equal(now, starts_at(streams, 0) if anew else before + streams.segment_length)
        before = now


def test_an_epoch_reads_no_character_twice_and_hardly_leaves_any_out(streams: Streams) -> None:
    for num_characters in range(streams.num_streams * streams.segment_length + 1, 400, 37):
        own = Streams(num_characters, streams.num_streams, streams.segment_length)
        text, read = np.arange(num_characters), []
        for step in range(own.segments_per_epoch):
            inputs, targets = read_windows(text, starts_at(own, step), own.segment_length, 1)
            np.testing.assert_array_equal(targets[..., 0], inputs + 1)
            read.append(inputs)
        found = np.concatenate(read).ravel()
        assert np.unique(found).size == found.size
        assert num_characters - found.size <= own.num_streams * own.segment_length


@pytest.mark.parametrize("micro_size", [1, 2, 3, 7])
def test_micro_batches_of_any_size_read_the_same_segments(micro_size: int) -> None:
    """Micro-batch m holds streams m b to (m + 1) b - 1 at every step, whichever rank reads it."""
    streams = Streams(10_000, 42, 10)
    for step in (0, 1, streams.segments_per_epoch, 10**6):
        numbers = [window_numbers(step, m, micro_size, 42 // micro_size) for m in range(42 // micro_size)]
        parts = [streams.window_starts(part) for part in numbers]
        np.testing.assert_array_equal(np.concatenate(parts), starts_at(streams, step))


def test_places_far_out_are_exact() -> None:
    """A terabyte of text and 10^12 steps: nothing overflows."""
    streams = Streams(10**12, 100, 250)
    start = streams.window_starts(np.array([100 * 10**12 + 99], dtype=np.uint64))
    epoch, place = divmod(10**12, 9_999_999_999 // 250)
    assert start.tolist() == [99 * 9_999_999_999 + place * 250]
    assert streams.epoch(10**12) == epoch


@pytest.mark.parametrize("arguments", [(0, 1, 1), (1, 1, 1), (400, 4, 100), (10, 100, 1)])
def test_text_too_short_for_the_streams(arguments: Any) -> None:
    characters, number, length = arguments
    with pytest.raises(
        DataError, match=rf"{characters} characters, too few for {number} streams .* {length} char.*shorter"
    ):
        Streams(*arguments)
    assert Streams(number * length + 1, number, length).segments_per_epoch == 1
