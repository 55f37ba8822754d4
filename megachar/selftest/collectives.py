"""Every collective that training uses, in every group of the layout, with known values.

The values are small whole numbers, exact in half precision, and laid out so that a wrong one says whose it is: each
rank has a row of its own to which the others add zero, beside one row to which all add.
"""

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from megachar.parallel.mesh import Mesh
from megachar.selftest.findings import Problem, name_ranks
from megachar.selftest.groups import Group, neighbors

SEND = "send and receive"
COUNTS = (7, 1 << 18)
"""Values in a row: fewer than a group's ranks may be, and a megabyte in fp32."""


def check_all_reduce(group: Group, mesh: Mesh, dtype: torch.dtype) -> Iterator[Problem]:
    """Sums over all ranks."""
    for count in COUNTS:
        rows = _contribution(group, group.ranks.index(mesh.rank), count, mesh, dtype)
        dist.all_reduce(rows, group=group.handle)
        yield from _compare_rows("all_reduce", group, mesh, rows, _sums(group, count, mesh, dtype))


def check_reduce_scatter(group: Group, mesh: Mesh, dtype: torch.dtype) -> Iterator[Problem]:
    """Sums of which every rank keeps its own part."""
    for count in COUNTS:
        part = _contribution(group, group.ranks.index(mesh.rank), count, mesh, dtype)
        received = torch.empty_like(part).flatten()
        dist.reduce_scatter_tensor(received, part.flatten().repeat(group.size), group=group.handle)
        rows = received.view_as(part)
        yield from _compare_rows("reduce_scatter", group, mesh, rows, _sums(group, count, mesh, dtype))


def check_all_gather(group: Group, mesh: Mesh, dtype: torch.dtype) -> Iterator[Problem]:
    """Everyone's values on every rank."""
    for count in COUNTS:
        received = torch.empty(group.size * count, dtype=dtype, device=mesh.device)
        dist.all_gather_into_tensor(received, _pattern(mesh.rank, count, mesh, dtype), group=group.handle)
        for rank, row in zip(group.ranks, received.view(group.size, count), strict=True):
            yield from _compare("all_gather", group, mesh, row, _pattern(rank, count, mesh, dtype), (rank,))


def check_broadcast(group: Group, mesh: Mesh, dtype: torch.dtype) -> Iterator[Problem]:
    """From every rank to all others."""
    for source in group.ranks:
        for count in COUNTS:
            row = _pattern(mesh.rank, count, mesh, dtype)
            dist.broadcast(row, source, group=group.handle)
            yield from _compare("broadcast", group, mesh, row, _pattern(source, count, mesh, dtype), (source,))


def check_neighbors(
    kind: str, mesh: Mesh, dtype: torch.dtype, begin: Callable[[tuple[int, int]], None]
) -> Iterator[Problem]:
    """Both ways between ranks that are next to each other; `begin` is told of every pair this rank comes to."""
    for pair in neighbors(kind, mesh.topology):
        if mesh.rank not in pair:
            continue
        begin(pair)
        for source, target in (pair, pair[::-1]):
            for count in COUNTS:
                if mesh.rank == source:
                    dist.send(_pattern(source, count, mesh, dtype), target)
                    continue
                row = torch.empty(count, dtype=dtype, device=mesh.device)
                dist.recv(row, source)
                expected = _pattern(source, count, mesh, dtype)
                yield from _compare(SEND, Group(kind, pair, None), mesh, row, expected, (source,))


COLLECTIVES: dict[str, Callable[[Group, Mesh, torch.dtype], Iterator[Problem]]] = {
    "all_reduce": check_all_reduce,
    "all_gather": check_all_gather,
    "reduce_scatter": check_reduce_scatter,
    "broadcast": check_broadcast,
}


def _pattern(rank: int, count: int, mesh: Mesh, dtype: torch.dtype) -> Tensor:
    """(count,) whole numbers from 1 to 23 that no other rank has in the same places."""
    places = torch.arange(count, device=mesh.device)
    return ((places * 7 + rank * 5) % 23 + 1).to(dtype)


def _contribution(group: Group, index: int, count: int, mesh: Mesh, dtype: torch.dtype) -> Tensor:
    """(ranks + 1, count): the pattern in this rank's row, zero in the others', and -1, 0 and 1 in the last."""
    rows = torch.zeros(group.size + 1, count, dtype=dtype, device=mesh.device)
    rows[index] = _pattern(group.ranks[index], count, mesh, dtype)
    rows[-1] = _term(index, count, mesh, dtype)
    return rows


def _term(index: int, count: int, mesh: Mesh, dtype: torch.dtype) -> Tensor:
    """-1, 0 and 1 by turns, so that sums over many ranks stay small, in whatever order they are taken."""
    return ((torch.arange(count, device=mesh.device) + index) % 3 - 1).to(dtype)


def _sums(group: Group, count: int, mesh: Mesh, dtype: torch.dtype) -> Tensor:
    """What all contributions add up to."""
    rows = [_pattern(rank, count, mesh, dtype) for rank in group.ranks]
    terms = [_term(index, count, mesh, dtype) for index in range(group.size)]
    return torch.stack([*rows, torch.stack(terms).sum(0)])


def _compare_rows(check: str, group: Group, mesh: Mesh, rows: Tensor, expected: Tensor) -> Iterator[Problem]:
    for row, right, rank in zip(rows[:-1], expected, group.ranks, strict=False):
        yield from _compare(check, group, mesh, row, right, (rank,))
    if bool((rows[:-1] == expected[:-1]).all()):  # else it is wrong for the same reason
        yield from _compare(check, group, mesh, rows[-1], expected[-1], group.ranks)


def _compare(
    check: str, group: Group, mesh: Mesh, row: Tensor, right: Tensor, suspects: tuple[int, ...]
) -> Iterator[Problem]:
    wrong = row != right
    if not bool(wrong.any()):
        return
    first = int(wrong.nonzero()[0])
    text = (
        f"{int(wrong.sum())} of {len(row)} values from {name_ranks(suspects)} are wrong: number {first} is "
        f"{row[first].item():g} and not {right[first].item():g}"
    )
    yield Problem(check, group.kind, group.ranks, suspects, text, (mesh.rank,))
