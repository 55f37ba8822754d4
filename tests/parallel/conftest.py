"""One pool of ranks per world size for the whole session."""

from collections.abc import Callable, Iterator

import pytest

from tests.parallel.pool import RankPool


@pytest.fixture(scope="session")
def ranks() -> Iterator[Callable[[int], RankPool]]:
    """`ranks(n)` is the pool of n processes, started at its first case."""
    pools: dict[int, RankPool] = {}
    yield lambda size: pools.setdefault(size, RankPool(size))
    for pool in pools.values():
        pool.close()
