"""Rank <-> (pipe, data, tensor) coordinates, and which blocks each stage holds. Pure functions of integers."""

import itertools
from dataclasses import dataclass


@dataclass(frozen=True)
class Coordinates:
    """Where a rank stands in the layout, each counted from 0."""

    pipe: int
    data: int
    tensor: int


@dataclass(frozen=True)
class Topology:
    """A pipe x data x tensor grid, tensor ranks varying fastest: neighbours of a tensor group share a node."""

    pipe_size: int
    data_size: int
    tensor_size: int

    @property
    def world_size(self) -> int:
        """Processes in the grid."""
        return self.pipe_size * self.data_size * self.tensor_size

    def coordinates(self, rank: int) -> Coordinates:
        """Coordinates of a global rank."""
        assert 0 <= rank < self.world_size
        rest, tensor = divmod(rank, self.tensor_size)
        pipe, data = divmod(rest, self.data_size)
        return Coordinates(pipe, data, tensor)

    def rank(self, pipe: int, data: int, tensor: int) -> int:
        """Global rank at the coordinates."""
        return (pipe * self.data_size + data) * self.tensor_size + tensor

    def tensor_groups(self) -> list[list[int]]:
        """Ranks that cut the same matrices between them."""
        return [[self.rank(p, d, t) for t in range(self.tensor_size)]
                for p in range(self.pipe_size) for d in range(self.data_size)]  # fmt: skip

    def data_groups(self) -> list[list[int]]:
        """Ranks that hold the same shard of the weights."""
        return [[self.rank(p, d, t) for d in range(self.data_size)]
                for p in range(self.pipe_size) for t in range(self.tensor_size)]  # fmt: skip

    def model_groups(self) -> list[list[int]]:
        """Ranks that together hold one replica of the model."""
        return [[self.rank(p, d, t) for p in range(self.pipe_size) for t in range(self.tensor_size)]
                for d in range(self.data_size)]  # fmt: skip


def stage_blocks(num_layers: int, pipe_size: int) -> list[range]:
    """The blocks (counted from 0) of every stage, as even as can be.

    The first stages take the odd blocks over: the last one already has the final classifier.
    """
    assert 1 <= pipe_size <= num_layers
    size, extra = divmod(num_layers, pipe_size)
    starts = [stage * size + min(stage, extra) for stage in range(pipe_size + 1)]
    return [range(start, stop) for start, stop in itertools.pairwise(starts)]
