"""Conversions between the units of a language model's loss. Inside megachar losses are sums of nats."""

import math
import sys

NATS_PER_BIT = math.log(2.0)


def bits(nats: float) -> float:
    """Nats to bits."""
    return nats / NATS_PER_BIT


def bits_per_character(sum_nats: float, count: float) -> float:
    """Bits per character of `count` predictions whose negative log-likelihoods add up to `sum_nats`."""
    return bits(sum_nats) / count


def word_perplexity(bits_per_byte: float, num_bytes: int, num_words: int) -> float:
    """Perplexity per word of a byte-level model: 2^(bits per byte x bytes / words) (Krause et al. 2016).

    Words are whitespace-separated tokens plus line ends.
    """
    exponent = bits_per_byte * num_bytes / num_words
    return float(2.0**exponent) if exponent < sys.float_info.max_exp else math.inf
