"""Nats to bits, bits per character and word perplexity, also of words too long for a float."""

import math
import random
import secrets

import pytest

from megachar.base.units import bits, bits_per_character, word_perplexity


def test_bits() -> None:
    assert bits(math.log(256)) == pytest.approx(8.0, rel=1e-15)
    assert bits(0.0) == 0.0


def test_bits_per_character() -> None:
    seed = secrets.randbits(32)
    draw = random.Random(seed)
    probabilities = [draw.uniform(0.01, 1) for _ in range(100)]
    nats = -sum(math.log(p) for p in probabilities)
    expected = -sum(math.log2(p) for p in probabilities) / 100
    assert bits_per_character(nats, 100) == pytest.approx(expected, rel=1e-12), f"seed {seed}"


@pytest.mark.parametrize(
    ("bits_per_byte", "num_bytes", "num_words", "perplexity"),
    [(1.2650, 1_256_449, 245_569, 88.8), (1.2682, 1_121_681, 217_646, 92.8)],
)
def test_word_perplexity_of_the_paper(bits_per_byte: float, num_bytes: int, num_words: int, perplexity: float) -> None:
    """WikiText-2, test and valid (Krause et al. 2016); the bits are given to four digits."""
    assert word_perplexity(bits_per_byte, num_bytes, num_words) == pytest.approx(perplexity, abs=0.05)


def test_word_perplexity_of_very_long_words() -> None:
    assert word_perplexity(8.0, 1000, 1) == math.inf
    assert math.isfinite(word_perplexity(8.0, 127, 1))
