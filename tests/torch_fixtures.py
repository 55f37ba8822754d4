"""Fixtures of tests that use torch, shared by the folders' conftest.py."""

import secrets
from collections.abc import Iterator

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def seed() -> int:
    """A fresh seed, which torch's generator is set to as well."""
    seed = secrets.randbits(31)
    print(f"seed {seed}")  # pytest shows it when the test fails
    torch.manual_seed(seed)
    return seed


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """A fresh generator, from the seed that torch's is set to as well."""
    return np.random.default_rng(seed)
