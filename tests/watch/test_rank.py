"""A rank's side of the connection to its hub."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from megachar.base.errors import PlatformError
from megachar.config.sections.training import FaultToleranceConfig
from megachar.watch import launchers
from megachar.watch.address import HubAddress
from megachar.watch.rank import RankWatch
from megachar.watch.secret import Secret
from megachar.watch.wire import Order, Reply, encode


class FakeHub:
    """Answers one connection at a time, with the proof by `secret`, and notes what it hears."""

    def __init__(self, secret: Secret) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = HubAddress(("127.0.0.1",), self.server.getsockname()[1], secret.name)
        self.heard: list[dict[str, Any]] = []
        self._secret = secret
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.server.accept()
                with connection, connection.makefile("rb") as lines:
                    self.heard.append(json.loads(next(lines)))
                    proof = self._secret.proof("hub", self.heard[-1]["nonce"], "00")
                    connection.sendall(encode(Reply(nonce="00", proof=proof)))
                    self.heard += map(json.loads, lines)


@pytest.fixture
def watch(tmp_path: Path) -> RankWatch:
    return RankWatch(3, 4, FaultToleranceConfig(), tmp_path, output=None)  # type: ignore[arg-type]


def test_the_hub_hears_first_who_a_rank_is(watch: RankWatch) -> None:
    """The thread beats on the connection as soon as it is there; a beat before the greeting is a stranger's."""
    secret = Secret.new()
    hub = FakeHub(secret)
    with hub.server:
        watch.connect(hub.address, secret)
        assert watch._socket is not None
        watch._socket.close()
        while len(hub.heard) < 3:
            time.sleep(0.01)
    opening, greeting, beat = hub.heard
    assert opening.keys() == {"nonce"}
    assert (greeting["rank"], greeting["pid"]) == (3, os.getpid())
    assert secret.proves(greeting["proof"], "rank", opening["nonce"], "00", "3", greeting["host"], greeting["machine"],
                         str(os.getpid()))  # fmt: skip
    assert "idle" in beat


def test_a_rank_tells_nothing_to_what_is_no_hub_of_its_own(watch: RankWatch) -> None:
    hub = FakeHub(Secret.new())
    with hub.server, pytest.raises(PlatformError, match="what answers does not have the secret of the run"):
        watch.connect(hub.address, Secret.new())
    assert all(said.keys() == {"nonce"} for said in hub.heard)
    assert not watch.connected


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n", b"x" * 3000, b'{"nonce":"00"}\n', b""])
def test_what_answers_may_be_another_program(watch: RankWatch, said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.sendall(said)

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(PlatformError, match=r"rank 3 on .* cannot reach what watches over the run"):
            watch.connect(HubAddress(("127.0.0.1",), server.getsockname()[1], "0" * 16), Secret.new())


@pytest.mark.parametrize("number", [0, 1, -1, "all", 2.5])
def test_no_order_names_what_is_no_process(number: object) -> None:
    """0 and -1 are groups of processes, 1 is the machine's first."""
    with pytest.raises(ValueError, match="abort"):
        Order.model_validate_json(json.dumps({"abort": [number]}))


def test_only_processes_of_the_run_are_aborted(tmp_path: Path) -> None:
    """A number that a message names may be that of any program of the user."""
    environment = {name: value for name, value in os.environ.items() if name not in launchers.MARKS}
    ours = {**environment, "MEGACHAR_HUB": "10.0.0.1:4711/0123456789abcdef", "WORLD_SIZE": "2"}
    theirs = {**ours, "MEGACHAR_HUB": "10.0.0.1:4712/fedcba9876543210"}
    code = "import sys; from megachar.watch.launchers import abort; abort(map(int, sys.argv[1:]))"
    with (
        subprocess.Popen(["sleep", "60"], env=ours) as sibling,
        subprocess.Popen(["sleep", "60"], env=theirs) as other_run,
        subprocess.Popen(["sleep", "60"], env=environment) as editor,
    ):
        time.sleep(0.2)  # until each is what it is to be
        numbers = [str(process.pid) for process in (sibling, other_run, editor)]
        subprocess.run([sys.executable, "-c", code, *numbers], env=ours, check=True)
        subprocess.run([sys.executable, "-c", code, *numbers[1:]], env=environment, check=True)
        assert sibling.wait(5) in (-signal.SIGABRT, -signal.SIGTERM, -signal.SIGKILL)
        assert other_run.poll() is None
        assert editor.poll() is None
        other_run.kill()
        editor.kill()
