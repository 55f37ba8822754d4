"""Fresh random numbers for tests, whose seeds are printed: pytest shows them where a test fails."""

import random
import secrets

import numpy as np


def fresh_seed(bits: int = 32) -> int:
    """Another in each run, of up to so many bits."""
    seed = secrets.randbits(bits)
    print(f"seed {seed}")
    return seed


def fresh_rng() -> np.random.Generator:
    """NumPy's generator of a fresh seed."""
    return np.random.default_rng(fresh_seed())


def fresh_random() -> random.Random:
    """Python's generator of a fresh seed."""
    return random.Random(fresh_seed())
