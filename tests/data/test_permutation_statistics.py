"""Is the keyed permutation a bijection, and as disordered as a random one? Fresh sizes and keys each time.

Limits are 6 standard deviations, of chi-squared after it is made normal: about one false alarm in a million runs.
"""

import secrets

import numpy as np
import pytest

from megachar.data.sampler import KeyedPermutation, WindowSampler, window_numbers
from tests.draws import fresh_rng, fresh_seed

FAR = 6.0


def draw_size() -> int:
    """Between 2^12 and 2^18, evenly on a logarithmic scale."""
    return int(2 ** fresh_rng().uniform(12, 18))


@pytest.fixture(params=["random", "power of two", "just above", "power of four", "just above four"])
def size(request: pytest.FixtureRequest) -> int:
    """Sizes that use all of the network's domain, half of it, and a quarter."""
    return {"random": draw_size(), "power of two": 2**15, "just above": 2**15 + 1,
            "power of four": 2**16, "just above four": 2**16 + 1}[request.param]  # fmt: skip


@pytest.fixture
def images(size: int) -> np.ndarray:
    key = secrets.randbits(64)
    print(f"size {size}, key {key}")
    return KeyedPermutation(size, key)(np.arange(size))


def chi_squared(first: np.ndarray, second: np.ndarray, bins: int) -> float:
    """Standard deviations by which a table of counts is off from what independent margins give.

    By the cube root of Wilson and Hilferty (1931): with one degree of freedom, 7 of the plain ones are 1 in 1,000.
    """
    table = np.bincount(first * bins + second, minlength=bins * bins).reshape(bins, bins).astype(float)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    freedom = (bins - 1) ** 2
    return standard_deviations(((table - expected) ** 2 / expected).sum(), freedom)


def standard_deviations(chi_squared: float, freedom: int) -> float:
    """Of a normal distribution, with as much above them."""
    spread = 2 / (9 * freedom)
    return float(((chi_squared / freedom) ** (1 / 3) - (1 - spread)) / np.sqrt(spread))


def test_every_place_is_taken_once(images: np.ndarray) -> None:
    np.testing.assert_array_equal(np.sort(images), np.arange(images.size))


def test_displacement(images: np.ndarray) -> None:
    """Spearman's footrule: mean and variance over all permutations after Diaconis and Graham (1977)."""
    n = images.size
    footrule = np.abs(images - np.arange(n)).sum()
    assert abs(footrule - (n * n - 1) / 3) < FAR * np.sqrt((n + 1) * (2 * n * n + 7) / 45)


def test_serial_correlation(images: np.ndarray) -> None:
    """Windows that follow each other at any distance, also those of the network's own powers of two."""
    n = images.size
    centred = (images - images.mean()) / images.std()
    lags = [1, 2, 3, 4, 7, 16, 100, 128, 256, 512, 1024, *fresh_rng().integers(1, n, size=10).tolist()]
    for lag in lags:
        assert abs((centred * np.roll(centred, lag)).mean()) < FAR / np.sqrt(n), f"lag {lag}"


def test_order_is_not_kept(images: np.ndarray) -> None:
    """Spearman's rank correlation of places and images, and the number of ascents."""
    n = images.size
    assert abs(np.corrcoef(np.arange(n), images)[0, 1]) < FAR / np.sqrt(n)
    ascents = np.count_nonzero(np.diff(images) > 0)
    assert abs(ascents - (n - 1) / 2) < FAR * np.sqrt((n + 1) / 12)


@pytest.mark.parametrize("bins", [2, 16])
def test_pairs_of_neighbours_are_independent(images: np.ndarray, bins: int) -> None:
    coarse = images * bins // images.size
    for lag in (1, 2, 256):
        assert abs(chi_squared(coarse[:-lag], coarse[lag:], bins)) < FAR
    fine = images % bins
    assert abs(chi_squared(fine[:-1], fine[1:], bins)) < FAR


@pytest.mark.parametrize("bins", [2, 16])
def test_places_and_images_are_independent(images: np.ndarray, bins: int) -> None:
    places = np.arange(images.size)
    for of_places in (places * bins // images.size, places % bins):
        for of_images in (images * bins // images.size, images % bins):
            assert abs(chi_squared(of_places, of_images, bins)) < FAR


def test_fixed_points_and_cycles() -> None:
    """Over keys: 1 fixed point on average, and the longest cycle 0.624 of the size (Golomb's constant)."""
    size, num_keys = 512, 300
    fixed, longest = [], []
    for _ in range(num_keys):
        images = KeyedPermutation(size, secrets.randbits(64))(np.arange(size))
        fixed.append(np.count_nonzero(images == np.arange(size)))
        longest.append(longest_cycle(images.tolist()) / size)
    assert abs(np.mean(fixed) - 1) < FAR / np.sqrt(num_keys)
    assert abs(np.mean(longest) - 0.6243) < FAR * 0.192 / np.sqrt(num_keys)


def longest_cycle(images: list[int]) -> int:
    longest, seen = 0, [False] * len(images)
    for start in range(len(images)):
        at, length = start, 0
        while not seen[at]:
            seen[at] = True
            at, length = images[at], length + 1
        longest = max(longest, length)
    return longest


@pytest.mark.parametrize("difference", [1, 1 << 63, 0x9E3779B97F4A7C15])
def test_related_keys_give_unrelated_orders(size: int, difference: int) -> None:
    key = fresh_seed(64)
    one, other = (KeyedPermutation(size, k)(np.arange(size)) for k in (key, key ^ difference))
    assert np.count_nonzero(one == other) < 20  # 1 is expected
    assert abs(np.corrcoef(one, other)[0, 1]) < FAR / np.sqrt(size)
    assert abs(chi_squared(one * 16 // size, other * 16 // size, 16)) < FAR


@pytest.mark.parametrize("seed_step", [0, 1])
def test_epochs_and_seeds_have_unrelated_orders(seed_step: int) -> None:
    """Of one seed, two epochs that follow each other; of two neighbouring seeds, the same epoch."""
    seed = fresh_seed(62)
    first = WindowSampler(300_000, 10, 8, seed, "epoch")
    second = WindowSampler(300_000, 10, 8, seed + seed_step, "epoch")
    n = first.windows_per_epoch
    one = first.window_starts(np.arange(n, dtype=np.uint64)) // 8
    other = second.window_starts(np.arange(n, dtype=np.uint64) + np.uint64(0 if seed_step else n)) // 8
    assert np.count_nonzero(one == other) < 20
    assert abs(np.corrcoef(one, other)[0, 1]) < FAR / np.sqrt(n)
    assert abs(chi_squared(one * 16 // n, other * 16 // n, 16)) < FAR


def test_a_global_batch_is_spread_over_the_text() -> None:
    """Of 64 equal parts of the text, a batch of 512 windows visits each about 8 times."""
    sampler = WindowSampler(100_000_000, 514, 512, fresh_seed(62), "epoch")
    counts = np.zeros(64)
    for step in range(200):
        starts = sampler.window_starts(window_numbers(step, 0, 512, 1))
        counts += (np.bincount(starts * 64 // 100_000_000, minlength=64) - 8.0) ** 2 / 8.0
    # The sum over parts of a batch is chi-squared with 63 degrees of freedom, a little less without replacement.
    assert abs(counts.sum() - 200 * 63) < 7 * np.sqrt(200 * 2 * 63) + 200


def test_no_window_is_the_same_for_every_seed() -> None:
    """Each window's start, over seeds, is uniform: none of the first is bound to one place of the text."""
    num_seeds, num_windows = 800, 64
    windows = np.arange(num_windows, dtype=np.uint64)
    samplers = (WindowSampler(16 + 9, 10, 8, secrets.randbits(62), "random") for _ in range(num_seeds))  # 16 starts
    starts = np.array([sampler.window_starts(windows) for sampler in samplers])
    for window in range(num_windows):
        counts = np.bincount(starts[:, window], minlength=16)
        assert abs(((counts - num_seeds / 16) ** 2 / (num_seeds / 16)).sum() - 15) < 9 * np.sqrt(30), f"window {window}"
