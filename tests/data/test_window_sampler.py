"""Which windows are read: a function of seed and number, uniform or each once an epoch, however batches are cut."""

import secrets
from collections import Counter

import numpy as np
import pytest

from megachar.base.errors import ConfigError, DataError
from megachar.data.sampler import Int64, KeyedPermutation, WindowSampler, _scale, window_numbers
from tests.draws import fresh_rng


def new_key() -> int:
    return secrets.randbits(64)


def starts_of(sampler: WindowSampler, step: int, micro_batch: int, size: int, count: int) -> Int64:
    """Where the windows of one of a step's `count` micro-batches of `size` windows start."""
    return sampler.window_starts(window_numbers(step, micro_batch, size, count))


@pytest.mark.parametrize("size", [*range(1, 70), 255, 256, 257, 1000, 4097, 65_536, 100_003])
def test_permutation_is_a_bijection(size: int) -> None:
    images = KeyedPermutation(size, new_key())(np.arange(size))
    np.testing.assert_array_equal(np.sort(images), np.arange(size))


@pytest.mark.parametrize("size", [2**33 + 1, 2**40, 2**40 - 87, 2**62])
def test_large_permutations_stay_inside_and_collide_nowhere(size: int) -> None:
    permutation = KeyedPermutation(size, new_key())
    some = np.unique(fresh_rng().integers(0, size, size=20_000))
    images = permutation(some)
    assert images.min() >= 0
    assert images.max() < size
    assert np.unique(images).size == some.size
    # Spread over the whole range: each quarter gets its share, 5 standard deviations either way.
    quarters = np.bincount((images // (size // 4)).clip(max=3), minlength=4)
    assert np.all(np.abs(quarters - some.size / 4) < 5 * np.sqrt(some.size * 3 / 16))


def test_permutation_depends_on_index_and_key_alone() -> None:
    key, size = new_key(), 1000
    permutation = KeyedPermutation(size, key)
    whole = permutation(np.arange(size))
    indices = fresh_rng().integers(0, size, size=(3, 5))
    np.testing.assert_array_equal(permutation(indices), whole[indices])
    np.testing.assert_array_equal(KeyedPermutation(size, key)(np.arange(size)), whole)
    other = KeyedPermutation(size, key ^ 1)(np.arange(size))
    assert np.count_nonzero(other == whole) < 20  # about 1 is expected


@pytest.mark.parametrize("size", [2, 3, 5, 6])
def test_small_permutations_are_uniform(size: int) -> None:
    num_keys = 1200
    images = np.array([KeyedPermutation(size, new_key())(np.arange(size)) for _ in range(num_keys)])
    expected = num_keys / size
    for place in range(size):
        counts = np.bincount(images[:, place], minlength=size)
        assert np.all(np.abs(counts - expected) < 5.5 * np.sqrt(expected))


@pytest.mark.parametrize("size", [1, 7, 2**31, 2**33 + 12345, 10**12, 2**62])
def test_scale_is_the_high_half_of_the_product(size: int) -> None:
    bits = [0, 1, 2**32 - 1, 2**32, 2**64 - 1, *(secrets.randbits(64) for _ in range(200))]
    assert _scale(np.array(bits, dtype=np.uint64), size).tolist() == [b * size >> 64 for b in bits]


ORDERS = ["random", "epoch"]


@pytest.mark.parametrize("order", ORDERS)
def test_same_windows_however_the_batch_is_cut(order: str) -> None:
    sampler = WindowSampler(5000, 66, 64, new_key(), order)  # type: ignore[arg-type]
    for step in (0, 1, 17, 10**9):
        whole = starts_of(sampler, step, 0, 24, 1)
        for size in (1, 2, 3, 4, 6, 8, 12):
            parts = [starts_of(sampler, step, number, size, 24 // size) for number in range(24 // size)]
            np.testing.assert_array_equal(np.concatenate(parts), whole)
        # Data rank r of R takes the micro-batches with number % R == r: together, the same windows.
        for num_ranks in (2, 3):
            shares = [starts_of(sampler, step, n, 4, 6) for rank in range(num_ranks) for n in range(rank, 6, num_ranks)]
            assert Counter(np.concatenate(shares).tolist()) == Counter(whole.tolist())


@pytest.mark.parametrize("order", ORDERS)
def test_steps_and_seeds_differ_and_repeat_exactly(order: str) -> None:
    seed = new_key()
    sampler, twin = (WindowSampler(10**9, 514, 512, seed, order) for _ in range(2))  # type: ignore[arg-type]
    first, second = starts_of(sampler, 5, 1, 64, 4), starts_of(sampler, 6, 1, 64, 4)
    assert first.dtype == np.int64
    assert first.shape == (64,)
    np.testing.assert_array_equal(first, starts_of(twin, 5, 1, 64, 4))
    assert np.intersect1d(first, second).size < 3
    other = WindowSampler(10**9, 514, 512, seed ^ 1, order)  # type: ignore[arg-type]
    assert np.intersect1d(first, starts_of(other, 5, 1, 64, 4)).size < 3


def test_random_starts_are_uniform_and_reach_both_ends() -> None:
    sampler = WindowSampler(29, 20, 18, new_key(), "random")  # 10 possible starts
    starts = np.concatenate([starts_of(sampler, step, 0, 100, 1) for step in range(200)])
    counts = np.bincount(starts)
    assert counts.size == 10  # 0 to 9: the last window ends with the text
    assert np.all(np.abs(counts - 2000) < 5.5 * np.sqrt(2000 * 0.9))
    # Consecutive windows are independent: all pairs occur equally often.
    pairs = np.bincount(starts[:-1] * 10 + starts[1:], minlength=100)
    assert np.all(np.abs(pairs - 200) < 6 * np.sqrt(200))


def test_random_starts_in_a_huge_text() -> None:
    sampler = WindowSampler(10**13, 514, 512, new_key(), "random")
    starts = starts_of(sampler, 10**7, 3, 10_000, 8)
    assert starts.min() >= 0
    assert starts.max() <= 10**13 - 514
    assert abs(starts.mean() / 10**13 - 0.5) < 5 * np.sqrt(1 / 12 / 10_000)


@pytest.mark.parametrize(
    ("num_tokens", "context", "num_targets"), [(1000, 16, 2), (999, 16, 1), (4321, 7, 5), (40, 16, 2)]
)
def test_an_epoch_visits_every_window_once(num_tokens: int, context: int, num_targets: int) -> None:
    sampler = WindowSampler(num_tokens, context + num_targets, context, new_key(), "epoch")
    per_epoch = sampler.windows_per_epoch
    orders, offsets = [], set()
    for epoch in range(8):
        # One window per step, so that epochs end in the middle of nothing.
        starts = starts_of(sampler, epoch, 0, per_epoch, 1)
        offset = int(starts.min())
        offsets.add(offset)
        assert 0 <= offset < context
        np.testing.assert_array_equal(np.sort(starts), offset + context * np.arange(per_epoch))
        assert starts.max() + context + num_targets <= num_tokens
        assert num_tokens - num_targets - per_epoch * context < 2 * context  # little is left out
        orders.append(tuple((starts - offset).tolist()))
    assert len(offsets) > 1
    if per_epoch > 20:
        assert len(set(orders)) == 8


def test_a_batch_that_crosses_epochs_equals_single_windows() -> None:
    sampler = WindowSampler(100, 18, 16, new_key(), "epoch")
    assert sampler.windows_per_epoch == 5
    batch = starts_of(sampler, 3, 0, 32, 1)  # windows 96 to 127: seven epochs
    single = [int(starts_of(sampler, number, 0, 1, 1)[0]) for number in range(96, 128)]
    assert batch.tolist() == single


@pytest.mark.parametrize("order", ORDERS)
def test_a_text_of_exactly_one_window(order: str) -> None:
    sampler = WindowSampler(18, 18, 16, new_key(), order)  # type: ignore[arg-type]
    assert starts_of(sampler, 0, 0, 9, 1).tolist() == [0] * 9


@pytest.mark.parametrize("order", ORDERS)
def test_a_text_shorter_than_a_window(order: str) -> None:
    with pytest.raises(DataError, match=r"has 1,017 tokens, but one window needs 1,018 .* shorter context or a longer"):
        WindowSampler(1017, 1018, 1016, 0, order)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_out_of_range(seed: int) -> None:
    with pytest.raises(ConfigError, match=rf"seed {seed} is outside"):
        WindowSampler(100, 18, 16, seed, "random")


def test_unknown_order() -> None:
    with pytest.raises(ConfigError, match="unknown order of windows 'sorted': use 'random' or 'epoch'"):
        WindowSampler(100, 18, 16, 0, "sorted")  # type: ignore[arg-type]
