"""Which windows of the text a step reads: pure functions of integers, with no state to save and no index to build.

Windows are numbered w = 0, 1, 2, ... over the whole run, and where w starts in the text depends on (seed, w) alone.
Resuming needs only the step, and any layout of micro-batches and ranks reads the same windows.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from megachar.base.errors import ConfigError, DataError

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd: multiples of it are spread evenly and never repeat
_NUM_ROUNDS = 8  # 4 rounds make a strong Feistel permutation of ideal rounds; ours are short and cheap, so twice that

UInt64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]


def _mix(x: UInt64) -> UInt64:
    """The finaliser of splitmix64 (Steele et al. 2014): a bijection; every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def make_key(*numbers: int) -> int:
    """64 bits that depend on all of `numbers` (each in [0, 2^64)) and on their order."""
    key = 0
    for number in numbers:
        # One-element arrays, because NumPy warns of the wrap-around of scalars, which is meant here.
        key = int(_mix(np.array([((key ^ number) + _GAMMA) & _MASK], dtype=np.uint64))[0])
    return key


def _hash(key: int, counters: UInt64) -> UInt64:
    """64 random bits for each counter: that position of the key's splitmix64 stream, mixed with the key once more."""
    # Two numbers, because the key of one is the stream's own position 1, and would give 0 there whatever the key.
    return _mix(_mix(counters * np.uint64(_GAMMA) + np.uint64(key)) ^ np.uint64(make_key(key, key)))


def _scale(bits: UInt64, size: int) -> Int64:
    """Map 64 random bits to [0, size): the high half of the 128-bit product bits x size (Lemire 2019).

    No value is likelier than another by more than size / 2^64, which is below 1 in 10 million for a terabyte of text.
    """
    low_mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    size_low, size_high = np.uint64(size & 0xFFFFFFFF), np.uint64(size >> 32)
    low, high = bits & low_mask, bits >> half
    middle = high * size_low + (low * size_low >> half)  # below 2^64: no carry is lost
    other = low * size_high + (middle & low_mask)
    return (high * size_high + (middle >> half) + (other >> half)).astype(np.int64)


class KeyedPermutation:
    """A bijection on [0, size) chosen by a 64-bit key, evaluated at any index without a table.

    A balanced Feistel network permutes [0, 2^bits), bits even; an image outside [0, size) is permuted again until it is
    inside (cycle walking). As 2^bits <= 4 x size, that takes at most about 4 passes on average.
    """

    def __init__(self, size: int, key: int) -> None:
        """Permutation number `key` (in [0, 2^64)) of [0, size), 1 <= size <= 2^62."""
        assert 1 <= size <= 1 << 62, size
        assert 0 <= key <= _MASK, key
        self.size = size
        self._half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
        self._round_keys = _hash(key, np.arange(_NUM_ROUNDS, dtype=np.uint64))

    def __call__(self, indices: npt.NDArray[Any]) -> Int64:
        """The images of `indices`, each in [0, size), in the same shape."""
        values = np.asarray(indices).astype(np.uint64)
        assert values.size == 0 or int(values.max()) < self.size, "index outside the permutation"
        shape, values = values.shape, self._feistel(values.ravel())
        outside = np.flatnonzero(values >= np.uint64(self.size))
        while outside.size:
            values[outside] = self._feistel(values[outside])
            outside = outside[values[outside] >= np.uint64(self.size)]
        return values.reshape(shape).astype(np.int64)

    def _feistel(self, values: UInt64) -> UInt64:
        half, mask = np.uint64(self._half_bits), np.uint64((1 << self._half_bits) - 1)
        high_bits = np.uint64(64 - self._half_bits)
        left, right = values >> half, values & mask
        for key in self._round_keys:
            left, right = right, left ^ (_mix(right * np.uint64(_GAMMA) + key) >> high_bits)
        return left << half | right


def window_numbers(
    step: int, micro_batch: int, micro_batch_size: int, num_micro_batches: int, offset: int = 0
) -> UInt64:
    """Numbers (b,) of the windows of micro-batch `micro_batch`, one of the `num_micro_batches` of `step`.

    The global batch of a step is num_micro_batches x micro_batch_size consecutive numbers, so cutting it into other
    micro-batches changes no window. `offset` is added to all numbers, and may be negative; they may not.
    """
    assert step >= 0, step
    assert 0 <= micro_batch < num_micro_batches, (micro_batch, num_micro_batches)
    assert micro_batch_size >= 1, micro_batch_size
    first = (step * num_micro_batches + micro_batch) * micro_batch_size + offset
    assert first >= 0, first
    return np.uint64(first) + np.arange(micro_batch_size, dtype=np.uint64)


def random_positions(key: int, windows: UInt64, size: int) -> Int64:
    """A position in [0, size) for each of `windows` (b,), uniform and independent; `key` in [0, 2^64)."""
    return _scale(_hash(key, windows), size)


def epoch_positions(seed: int, windows: UInt64, windows_per_epoch: int, num_offsets: int, context: int) -> Int64:
    """Positions (b,) of windows that cut a text every `context` tokens, each once in an epoch, in shuffled order.

    Every epoch has its own order and its own offset, from 0 to num_offsets - 1, of the first cut.
    """
    epochs, places = np.divmod(windows, np.uint64(windows_per_epoch))
    positions = np.empty(windows.shape, dtype=np.int64)
    for epoch in np.unique(epochs):  # one, or two where the batch runs into the next epoch
        inside = epochs == epoch
        order = KeyedPermutation(windows_per_epoch, make_key(seed, int(epoch), 0))
        offset = _scale(np.array([make_key(seed, int(epoch), 1)], dtype=np.uint64), num_offsets)
        positions[inside] = offset + order(places[inside]) * context
    return positions


class WindowSampler:
    """Where the windows of each micro-batch start in a text of `num_tokens` tokens.

    order "random": every window starts anywhere, uniformly and independently (with replacement).
    order "epoch": an epoch cuts the text into windows whose inputs do not overlap, at its own random offset, and visits
    each of them once in its own random order. All epochs have the same number of windows; what does not fit at the two
    ends, less than two contexts together, is left out, in each epoch elsewhere.
    """

    def __init__(
        self, num_tokens: int, window_tokens: int, context: int, seed: int, order: Literal["random", "epoch"]
    ) -> None:
        """`window_tokens` = context + number of targets: the tokens that a window of `context` inputs reads.

        DataError where the text is shorter than one window; ConfigError for an unknown order or a seed outside
        [0, 2^64).
        """
        assert 1 <= context < window_tokens, (context, window_tokens)
        check_holds_window(num_tokens, window_tokens)
        check_seed_and_order(seed, order)
        self.context, self.seed, self.order = context, seed, order
        self.num_starts = num_tokens - window_tokens + 1
        """Positions where a window can start."""
        # A text of barely one window leaves less room than a whole context to shift the cut in.
        self._num_offsets = min(context, self.num_starts)
        self.windows_per_epoch = (self.num_starts - self._num_offsets) // context + 1
        """Windows in an epoch of order "epoch"."""

    def window_starts(self, windows: UInt64) -> Int64:
        """Where the windows with these numbers (b,) start in the text: (b,)."""
        if self.order == "random":
            return random_positions(make_key(self.seed), windows, self.num_starts)
        return epoch_positions(self.seed, windows, self.windows_per_epoch, self._num_offsets, self.context)


def check_seed_and_order(seed: int, order: str) -> None:
    """ConfigError for an unknown order or a seed outside [0, 2^64)."""
    if not 0 <= seed <= _MASK:
        raise ConfigError(f"seed {seed} is outside [0, 2^64): choose a seed from 0 to {_MASK}")
    if order not in ("random", "epoch"):
        raise ConfigError(f"unknown order of windows {order!r}: use 'random' or 'epoch'")


def check_holds_window(num_tokens: int, window_tokens: int) -> None:
    """DataError where a text of `num_tokens` tokens is shorter than one window."""
    if num_tokens < window_tokens:
        raise DataError(
            f"the split has {num_tokens:,} tokens, but one window needs {window_tokens:,} (context plus targets): "
            "use a shorter context or a longer text"
        )
