"""What ranks say beside tensors: of the type it should be, and never a program."""

import ast
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from pydantic import TypeAdapter

from megachar.base.errors import CheckpointError, MegacharError, PlatformError
from megachar.parallel.mesh import fail_together, start
from megachar.parallel.messages import error_from_json, gather
from megachar.parallel.topology import Topology
from tests.parallel.pool import RankPool
from tests.test_architecture import FILES, SCRIPTS, name_of, tree_of

Ranks = Callable[[int], RankPool]
COUNTS = TypeAdapter(dict[str, int])


class Program:
    """Pickled, it is a shell command that its reader runs."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def send(content: bytes, announced: int | None = None) -> None:
    """Take part in one `gather` of two ranks as a rank that sends what it likes."""
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(2)]
    dist.all_gather(lengths, torch.tensor([len(content) if announced is None else announced]))
    if announced is None:
        padded = torch.zeros(int(max(lengths)), dtype=torch.uint8)
        padded[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        dist.all_gather([torch.empty_like(padded) for _ in range(2)], padded)


def told(content: bytes, announced: int | None = None) -> str:
    """On rank 0: what becomes of what rank 1 sends."""
    dist.init_process_group("gloo")
    if dist.get_rank() == 1:
        send(content, announced)
        return ""
    group = dist.group.WORLD
    assert group is not None
    try:
        return repr(gather(COUNTS, {"own": 1}, group))
    except PlatformError as error:
        return str(error)


def test_ranks_hear_each_other(ranks: Ranks) -> None:
    assert ranks(2).run(told, b'{"other": 22222}')[0] == "[{'own': 1}, {'other': 22222}]"


@pytest.mark.parametrize(
    ("content", "announced", "error"),
    [(b'{"other": "many"}', None, "rank 1 sent what is not understood"),
     (b"\x00\xff", None, "rank 1 sent what is not understood"),
     (b"[" * 100_000, None, "rank 1 sent what is not understood"),
     (b"", -1, "rank 1 announces a message of -1 bytes"),
     (b"", 1 << 50, "rank 1 announces a message of 1125899906842624 bytes, and at most")],
)  # fmt: skip
def test_what_is_no_message_is_refused(ranks: Ranks, content: bytes, announced: int | None, error: str) -> None:
    assert error in ranks(2).run(told, content, announced)[0]


def test_no_program_of_a_peer_runs(ranks: Ranks, tmp_path: Path) -> None:
    sent = pickle.dumps(Program(tmp_path / "ran"))
    assert "rank 1 sent what is not understood" in ranks(2).run(told, sent)[0]
    assert not (tmp_path / "ran").exists()


def fail_on_one() -> str:
    mesh = start(Topology(1, 2, 1), torch.device("cpu"))
    try:
        fail_together(mesh, CheckpointError("the disk is full") if mesh.rank == 1 else None)
    except MegacharError as error:
        return repr(error)
    return "no error"


def test_all_ranks_raise_the_error_of_one(ranks: Ranks) -> None:
    assert ranks(2).run(fail_on_one) == ["CheckpointError('the disk is full')"] * 2


def test_an_error_of_an_unknown_kind_is_none_but_ours() -> None:
    for kind in ("SystemExit", "__builtins__", "Preempted", ""):
        assert type(error_from_json(kind, "text")) is MegacharError


def test_no_collective_unpickles() -> None:
    """DeepSpeed's are looked for by the pool of ranks, which refuses them in every test that trains."""
    collectives = {
        name for name, value in vars(dist).items() if callable(value) and name.endswith(("_object", "_object_list"))
    }
    assert "all_gather_object" in collectives
    assert "broadcast_object_list" in collectives
    assert not [
        (name_of(path), node.attr)
        for path in FILES + SCRIPTS
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and node.attr in collectives
    ]
