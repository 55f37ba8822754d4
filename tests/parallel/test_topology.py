"""Ranks, coordinates, groups and stages of a grid of processes, against the grid counted out by hand."""

import itertools
import random
import secrets

import pytest

from megachar.parallel.topology import Coordinates, Topology, stage_blocks


@pytest.fixture
def random_topology() -> Topology:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    return Topology(draw.randint(1, 9), draw.randint(1, 9), draw.randint(1, 9))


def test_numbering() -> None:
    """Tensor ranks vary fastest, pipe slowest."""
    topology = Topology(pipe_size=2, data_size=3, tensor_size=4)
    assert topology.world_size == 24
    assert topology.coordinates(0) == Coordinates(0, 0, 0)
    assert topology.coordinates(1) == Coordinates(pipe=0, data=0, tensor=1)
    assert topology.coordinates(4) == Coordinates(pipe=0, data=1, tensor=0)
    assert topology.coordinates(12) == Coordinates(pipe=1, data=0, tensor=0)
    assert topology.rank(pipe=1, data=2, tensor=3) == 23


def test_rank_and_coordinates_are_inverse(random_topology: Topology) -> None:
    for rank in range(random_topology.world_size):
        at = random_topology.coordinates(rank)
        assert random_topology.rank(at.pipe, at.data, at.tensor) == rank, random_topology
        assert at.pipe < random_topology.pipe_size
        assert at.data < random_topology.data_size
        assert at.tensor < random_topology.tensor_size


@pytest.mark.parametrize("rank", [-1, 24])
def test_ranks_outside_the_grid(rank: int) -> None:
    with pytest.raises(AssertionError):
        Topology(2, 3, 4).coordinates(rank)


@pytest.mark.parametrize(
    ("groups", "varying"),
    [("tensor_groups", {"tensor"}), ("data_groups", {"data"}), ("model_groups", {"pipe", "tensor"})],
)
def test_groups(random_topology: Topology, groups: str, varying: set[str]) -> None:
    """A group holds all ranks that agree in every other coordinate, and every rank is in one group."""
    expected: dict[tuple[int, ...], list[int]] = {}
    for rank in range(random_topology.world_size):
        at = vars(random_topology.coordinates(rank))
        expected.setdefault(tuple(value for name, value in at.items() if name not in varying), []).append(rank)
    assert getattr(random_topology, groups)() == list(expected.values()), random_topology


def test_groups_by_hand() -> None:
    topology = Topology(pipe_size=2, data_size=2, tensor_size=2)
    assert topology.tensor_groups() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert topology.data_groups() == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert topology.model_groups() == [[0, 1, 4, 5], [2, 3, 6, 7]]


@pytest.mark.parametrize(("num_layers", "pipe_size"), [(1, 1), (64, 1), (64, 64), (64, 7), (12, 5), (5, 4), (13, 4)])
def test_stage_blocks(num_layers: int, pipe_size: int) -> None:
    """Every block once and in order, sizes that differ by at most one, larger stages first."""
    stages = stage_blocks(num_layers, pipe_size)
    sizes = [len(stage) for stage in stages]
    assert list(itertools.chain(*stages)) == list(range(num_layers))
    assert len(stages) == pipe_size
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(("num_layers", "pipe_size"), [(3, 4), (3, 0)])
def test_stages_without_a_block(num_layers: int, pipe_size: int) -> None:
    with pytest.raises(AssertionError):
        stage_blocks(num_layers, pipe_size)
