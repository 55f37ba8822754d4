"""Fixtures of tests that use torch, shared by the folders' conftest.py."""

import secrets

import numpy as np
import pytest
import torch

torch.set_num_threads(1)  # for the fixtures of modules and of the session, which are made before those of a test


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Whatever the test before did. Threads that wait for each other on a busy machine take ten times as long."""
    torch.set_num_threads(1)


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
