"""Latency and bandwidth between stages, and within tensor and data groups; groups of a kind at the same time."""

import time
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from megachar.parallel.mesh import Mesh
from megachar.selftest.findings import Measurement
from megachar.selftest.groups import STAGES, Group, neighbors

BYTES = 16 << 20
"""Of the large message: a hidden state of some size, or a bucket of gradients."""
SMALL_BYTES = 4
SECONDS = 0.5
"""For each size, within `MOST_TRIES`; the fastest try counts, since others may share the machine."""
MOST_TRIES = 20


def measure_all_reduce(group: Group, mesh: Mesh) -> Measurement:
    """An all-reduce within a group, with its bus bandwidth: what a ring sends over every link."""

    def fastest(num_bytes: int) -> float:
        tensor = _message(num_bytes, mesh)
        return _fastest(lambda: dist.all_reduce(tensor, group=group.handle), group, mesh)

    sent = BYTES * 2 * (group.size - 1) / group.size
    return Measurement(group.kind, group.ranks, fastest(SMALL_BYTES), sent / fastest(BYTES))


def measure_stages(mesh: Mesh, begin: Callable[[tuple[int, int]], None]) -> Iterator[Measurement]:
    """There and back between this rank's stage and its neighbors; the links between two stages at the same time.

    `begin` is told of every link this rank comes to.
    """
    for pair in neighbors(STAGES, mesh.topology):
        if mesh.rank in pair:
            begin(pair)
            link = Group(STAGES, pair, None)
            small, large = (_fastest(_there_and_back(link, num_bytes, mesh), link, mesh)
                            for num_bytes in (SMALL_BYTES, BYTES))  # fmt: skip
            yield Measurement(STAGES, pair, small / 2, 2 * BYTES / large)


def _there_and_back(link: Group, num_bytes: int, mesh: Mesh) -> Callable[[], None]:
    message = _message(num_bytes, mesh)
    first, second = link.ranks

    def exchange() -> None:
        if mesh.rank == first:
            dist.send(message, second)
            dist.recv(message, second)
        else:
            dist.recv(message, first)
            dist.send(message, first)

    return exchange


def _fastest(work: Callable[[], object], group: Group, mesh: Mesh) -> float:
    """Seconds of the fastest try; all ranks of the group make as many."""

    def seconds() -> float:
        since = time.perf_counter()
        work()
        if mesh.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - since

    seconds()  # the first one may set up connections
    once = seconds()
    tries = _leaders(max(1, min(MOST_TRIES, int(SECONDS / once))), group, mesh)
    return min(once, *(seconds() for _ in range(tries)))


def _leaders(number: int, group: Group, mesh: Mesh) -> int:
    """The number that the group's first rank has."""
    told = torch.tensor([number], device=mesh.device)
    if group.kind != STAGES:
        dist.broadcast(told, group.ranks[0], group=group.handle)
    elif mesh.rank == group.ranks[0]:
        dist.send(told, group.ranks[1])
    else:
        dist.recv(told, group.ranks[0])
    return int(told)


def _message(num_bytes: int, mesh: Mesh) -> Tensor:
    return torch.zeros(num_bytes // 4, device=mesh.device)
