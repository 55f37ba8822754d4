"""Ranks show each other that they belong to the run, and on one machine nobody elsewhere can speak to them."""

import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist
from torch.distributed import TCPStore

from megachar.base.errors import PlatformError
from megachar.parallel.mesh import start
from megachar.parallel.messages import gather
from megachar.parallel.proof import _ANSWER, _OPENING, prove_membership
from megachar.parallel.topology import Topology
from megachar.watch.secret import Secret
from tests.parallel.pool import RankPool

Ranks = Callable[[int], RankPool]


def meet(folder: Path, impostor: int, trick: str) -> str:
    """On a rank of two: join the others, honestly or as an impostor who cannot read the folder of the run."""
    mesh = start(Topology(1, 2, 1), torch.device("cpu"))
    if mesh.rank == impostor:
        name = Secret.new().name if mesh.is_main else ""
        gather(_OPENING, (name if trick != "another folder" else "../../../etc", "00", ""), mesh.control_group)
        # Whatever it says, such as the answer of somebody else.
        gather(_ANSWER, ("é" if trick == "nonsense" else secrets.token_hex(32), "here", ""), mesh.control_group)
        return "in"
    try:
        secret = prove_membership(mesh, folder)
    except PlatformError as error:
        return str(error)
    return secret.key.hex()


def test_the_ranks_of_a_run_share_a_secret(ranks: Ranks, tmp_path: Path) -> None:
    first, second = ranks(2).run(meet, tmp_path / "launch", -1, "")
    assert first == second
    assert len(first) == 64
    assert list((tmp_path / "launch").iterdir()) == []


@pytest.mark.parametrize(
    ("impostor", "trick", "error"),
    [(1, "", "rank 1 on 'here' has not shown that it belongs to this run (its proof is wrong)"),
     (1, "nonsense", "rank 1 on 'here' has not shown that it belongs to this run"),
     (0, "", ".secret cannot be read: No such file or directory; all processes of a run need the same run folder"),
     (0, "another folder", "'../../../etc' names no secret of a run")],
)  # fmt: skip
def test_an_impostor_is_found(ranks: Ranks, tmp_path: Path, impostor: int, trick: str, error: str) -> None:
    results = ranks(2).run(meet, tmp_path, impostor, trick)
    assert error in results[1 - impostor]


def listening() -> tuple[str, list[str]]:
    """On a rank: what the store says for a key, and the addresses at which this process listens."""
    start(Topology(1, int(os.environ["WORLD_SIZE"]), 1), torch.device("cpu"))
    store = TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), is_master=False)
    store.set("key", "value")
    found = [one.laddr.ip for one in psutil.Process().net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    value = store.get("key").decode()
    dist.barrier()  # the store ends with rank 0
    return value, found


@pytest.mark.parametrize("size", [1, 2])
def test_on_one_machine_nothing_listens_for_others(ranks: Ranks, size: int) -> None:
    """Neither the store nor gloo."""
    for value, addresses in ranks(size).run(listening):
        assert value == "value"
        assert set(addresses) == {"127.0.0.1"}


def test_a_secret_is_for_its_user_alone(tmp_path: Path) -> None:
    secret = Secret.new()
    secret.write(tmp_path)
    [path] = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert secret.key.hex() not in repr(secret)
    assert Secret.read(tmp_path, secret.name) == secret
    assert Secret.read(tmp_path, secret.name).proves(secret.proof("a", "b"), "a", "b")
    assert not secret.proves(secret.proof("ab"), "a", "b")
    secret.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "fifo", "short", "long"])
def test_what_is_no_secret_is_refused(tmp_path: Path, kind: str) -> None:
    secret = Secret.new()
    path = tmp_path / f"{secret.name}.secret"
    if kind == "link":
        (tmp_path / "target").write_bytes(secret.key)
        path.symlink_to(tmp_path / "target")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.write_bytes(secret.key[1:] if kind == "short" else secret.key * 2)
    with pytest.raises(PlatformError, match=r"cannot be read|is no secret that this user has written"):
        Secret.read(tmp_path, secret.name)


def test_a_taken_port_is_torchs_to_tell(ranks: Ranks) -> None:
    """Also where the stranger listens on the loopback alone: a store beside it would not be the one others reach."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        assert "in use" in ranks(1).run(start_at, stranger.getsockname()[1])[0]


def start_at(port: int) -> str:
    os.environ["MASTER_PORT"] = str(port)
    try:
        start(Topology(1, 1, 1), torch.device("cpu"), timeout_seconds=5)
    except Exception as error:
        return str(error)
    return "started"
