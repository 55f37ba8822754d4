"""Ranks for the tests of this folder."""

from collections.abc import Callable

import pytest

from tests.parallel.pool import RankPool


@pytest.fixture(scope="session")
def ranks() -> Callable[[int], RankPool]:
    """`ranks(n).run(case)` runs a case on n processes."""
    return RankPool
