"""The groups of a layout that a run communicates in, and the neighbors that send to each other."""

from dataclasses import dataclass

import torch.distributed as dist

from megachar.parallel.mesh import Mesh
from megachar.parallel.topology import Topology

ALL, STAGES, TENSOR, DATA, MODEL_GROUP = "all ranks", "stages", "tensor group", "data group", "model group"


@dataclass(frozen=True)
class Group:
    """A group that this rank is in."""

    kind: str
    ranks: tuple[int, ...]
    handle: dist.ProcessGroup | None
    """None: the default group."""

    @property
    def size(self) -> int:
        """Its number of ranks."""
        return len(self.ranks)


def kinds(topology: Topology) -> dict[str, list[list[int]]]:
    """The groups of every kind in which more than one rank takes part."""
    every = {
        ALL: [list(range(topology.world_size))],
        TENSOR: topology.tensor_groups(),
        DATA: topology.data_groups(),
        MODEL_GROUP: topology.model_groups() if topology.pipe_size > 1 else [],
    }
    return {kind: groups for kind, groups in every.items() if groups and len(groups[0]) > 1}


def own_group(kind: str, mesh: Mesh) -> Group:
    """This rank's group of a kind."""
    handles = {ALL: None, TENSOR: mesh.tensor_group, DATA: mesh.data_group, MODEL_GROUP: mesh.model_group}
    ranks = next(tuple(group) for group in kinds(mesh.topology)[kind] if mesh.rank in group)
    return Group(kind, ranks, handles[kind])


def neighbors(kind: str, topology: Topology) -> list[tuple[int, int]]:
    """Pairs of ranks that send to each other: stages of one replica, or ranks next to each other in a group's ring.

    In an order in which the pairs can be gone through one after the other by all ranks.
    """
    if kind == STAGES:
        return [(topology.rank(pipe, data, tensor), topology.rank(pipe + 1, data, tensor))
                for pipe in range(topology.pipe_size - 1) for data in range(topology.data_size)
                for tensor in range(topology.tensor_size)]  # fmt: skip
    pairs = []
    for group in kinds(topology).get(kind, []):
        ring = [(group[i], group[(i + 1) % len(group)]) for i in range(len(group))]
        pairs += ring[: len(group) - 1] if len(group) == 2 else ring
    return pairs
