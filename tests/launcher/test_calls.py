"""Hosts that call the first one before a start without ssh, and strangers that do."""

import asyncio
import contextlib
import json
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from megachar.base.errors import PlatformError
from megachar.config.loading import load_experiment
from megachar.launching.calls import Call, call, take_calls
from megachar.launching.hostfile import Host
from megachar.launching.network import free_port
from megachar.launching.plan import LaunchPlan
from megachar.watch.secret import Secret
from megachar.watch.wire import STRANGERS


def plan_in(folder: Path, port: int) -> LaunchPlan:
    experiment = load_experiment("quickstart", [f"output={folder}"])
    return LaunchPlan(experiment, "quickstart", hosts=(Host("a", 1), Host("b", 1)), launcher="no_ssh", node_rank=1,
                      master_port=port)  # fmt: skip


def exchange(folder: Path, caller: Any, kept: bool = True) -> list[Call]:
    """What the first host takes of what `caller(plan, connection)` does in a thread."""
    plan, secret, taken = plan_in(folder, free_port()), Secret.new(), list[Call]()
    if kept:
        secret.write(plan.folder.launch)

    def work() -> None:
        with socket.create_connection(("127.0.0.1", plan.master_port), timeout=5) as connection:
            caller(plan, connection)

    async def serve() -> None:
        server = await take_calls(plan, secret, lambda found, *_: taken.append(found))
        await asyncio.get_running_loop().run_in_executor(None, work)
        await asyncio.sleep(0.1)
        server.close()

    asyncio.run(serve())
    return taken


def test_both_show_that_they_have_the_run_folder(tmp_path: Path) -> None:
    [found] = exchange(tmp_path, lambda plan, connection: call(connection, plan))
    assert (found.node_rank, found.host_name) == (1, socket.gethostname())


@pytest.mark.parametrize("words", [b"GET /\r\n\r\n", b"[]\n", b'{"node_rank": -1}\n', b"x" * 100_000, b"\xff\n"])
def test_garbage_is_hung_up_on(tmp_path: Path, words: bytes) -> None:
    def caller(_: LaunchPlan, connection: socket.socket) -> None:
        connection.sendall(words)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""

    assert exchange(tmp_path, caller) == []


def test_without_the_secret_nobody_is_a_host(tmp_path: Path) -> None:
    def caller(_: LaunchPlan, connection: socket.socket) -> None:
        connection.sendall(b'{"node_rank": 1, "host_name": "b", "settings": "", "nonce": "00"}\n')
        answer = json.loads(connection.recv(4096))
        connection.sendall(json.dumps({"proof": answer["proof"]}).encode() + b"\n")
        assert connection.recv(1) == b""

    assert exchange(tmp_path, caller) == []


def test_strangers_take_little(tmp_path: Path) -> None:
    """However many connect and keep silent, few of their connections stand, and a host comes through."""
    process, number, host = psutil.Process(), 300, socket.gethostname()

    def caller(plan: LaunchPlan, connection: socket.socket) -> None:
        address = ("127.0.0.1", plan.master_port)
        before = process.num_fds()
        with contextlib.ExitStack() as stack:
            for _ in range(number):
                stack.enter_context(socket.create_connection(address, timeout=5))
            until = time.monotonic() + 30
            while process.num_fds() - before - number > len(plan.hosts) + STRANGERS and time.monotonic() < until:
                time.sleep(0.01)
            assert process.num_fds() - before - number <= len(plan.hosts) + STRANGERS
            with socket.create_connection(address, timeout=5) as ours:
                call(ours, plan)

    assert [found.host_name for found in exchange(tmp_path, caller)] == [host]


def test_a_host_answers_no_other_than_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not have the secret, or that names one of its own, which is not in the run folder."""
    monkeypatch.setattr("megachar.watch.secret.SEEN_SECONDS", 0.2)

    def caller(plan: LaunchPlan, connection: socket.socket) -> None:
        with pytest.raises(PlatformError, match=r"cannot be read|what answers is not the first host of this run"):
            call(connection, plan)

    assert exchange(tmp_path, caller, kept=False) == []


def test_other_settings_are_other_calls(tmp_path: Path) -> None:
    def caller(plan: LaunchPlan, connection: socket.socket) -> None:
        call(connection, replace(plan, resume=True))

    [same] = exchange(tmp_path, lambda plan, connection: call(connection, plan))
    [other] = exchange(tmp_path, caller)
    assert same.settings != other.settings
