"""A hub on a network with strangers: none of them ends a run, is told anything, or takes more than a little of it."""

import json
import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psutil
import pytest

from megachar.config.sections.training import FaultToleranceConfig
from megachar.watch import hub as hub_module
from megachar.watch.failure import Failure
from megachar.watch.hub import Hub
from megachar.watch.secret import Secret
from megachar.watch.wire import STRANGERS, Beat, Failed, Greeting, Left, encode, greet

OFF = FaultToleranceConfig(heartbeat_timeout_seconds=0, progress_timeout_seconds=0)
RANKS = 2


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(hub_module, "STRANGER_SECONDS", 0.5)
    hub = Hub(RANKS, OFF, Secret.new())
    hub.start()
    yield hub
    hub.close()


def connect(hub: Hub) -> socket.socket:
    return socket.create_connection(("127.0.0.1", hub.port), timeout=5)


def join(hub: Hub, rank: int, secret: Secret | None = None) -> socket.socket:
    """As a rank does."""
    connection = connect(hub)
    greet(connection, Greeting(rank=rank, host="a", machine="m", pid=os.getpid()), secret or hub.secret)
    return connection


def said(connection: socket.socket) -> list[dict[str, Any]]:
    """What comes until the end, which must be soon."""
    connection.settimeout(5)
    received = b""
    try:
        while data := connection.recv(4096):
            received += data
    except ConnectionResetError:
        pass
    return [json.loads(line) for line in received.splitlines()]


def wait_until(holds: Any) -> None:
    until = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


GARBAGE = (
    b"GET / HTTP/1.1\r\n\r\n", b"\n", b"[]\n", b"null\n", b'"x"\n', b"\xff\xfe\n", b"[" * 900 + b"\n", b"{}\n",
    b"x" * 5000, b'{"nonce": 1}\n', b'{"nonce": "' + b"0" * 500 + b'"}\n', b"",
    b'{"token": "t", "rank": 0, "host": "a", "machine": "m", "pid": 1}\n',
)  # fmt: skip


@pytest.mark.parametrize("words", GARBAGE)
def test_garbage_is_turned_away(hub: Hub, words: bytes) -> None:
    with connect(hub) as stranger:
        stranger.sendall(words)
        if not words:
            stranger.shutdown(socket.SHUT_WR)
        assert said(stranger) == []
    assert not hub.members
    assert hub.verdict is None


def test_garbage_is_a_line_a_minute(hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(100):
        with connect(hub) as stranger:
            stranger.sendall(b"garbage\xff\n")
            said(stranger)
    hub._say_again = 0  # a minute later
    with connect(hub) as stranger:
        stranger.sendall(b'{"nonce": "\\u001b[2J\xff\n')
        said(stranger)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "turned away 1 connection that did not belong to the run, the last from 127.0.0.1: " in lines[0]
    assert "turned away 100 connections" in lines[1]
    assert lines[1].isprintable()


@pytest.mark.parametrize("secret", [None, "another run's"])
def test_a_forged_rank_is_turned_away(hub: Hub, secret: str | None) -> None:
    """A stranger has no proof but the hub's own, or that of another run."""
    nonce = "00"
    with connect(hub) as stranger:
        stranger.sendall(b'{"nonce": "00"}\n')
        reply = json.loads(stranger.recv(4096))
        greeting = Greeting(rank=0, host="a", machine="m", pid=os.getpid())
        if secret:
            greeting = greeting.signed(Secret.new(), (nonce, reply["nonce"]))
        else:  # the hub's own proof, sent back
            greeting = greeting.model_copy(update={"proof": reply["proof"]})
        stranger.sendall(encode(greeting))
        stranger.sendall(encode(Failed(failure=Failure("exception", (1,), "b", 3, "forged"))))
        assert said(stranger) == []
    time.sleep(0.3)
    assert not hub.members
    assert hub.verdict is None


def test_what_a_rank_has_said_is_of_no_use_again(hub: Hub) -> None:
    nonces = []
    for _ in range(2):
        with connect(hub) as connection:
            connection.sendall(b'{"nonce": "00"}\n')
            nonces.append(json.loads(connection.recv(4096))["nonce"])
    greeting = Greeting(rank=0, host="a", machine="m", pid=os.getpid()).signed(hub.secret, ("00", nonces[0]))
    with connect(hub) as stranger:
        stranger.sendall(b'{"nonce": "00"}\n')
        stranger.recv(4096)
        stranger.sendall(encode(greeting))
        assert said(stranger) == []
    assert not hub.members


def test_a_rank_comes_once(hub: Hub) -> None:
    """Even with the secret nobody takes the place of a rank that lives, or of one that there is not."""
    with join(hub, 0) as first:
        wait_until(lambda: 0 in hub.members)
        with join(hub, 0) as second:
            assert said(second) == [{"refused": "rank 0 is here already"}]
        with join(hub, 7) as third:
            assert said(third) == [{"refused": "rank 7 is none of this run"}]
        first.sendall(encode(Beat(step=5, saved=None, idle=0.0, waits=False, place="here")))
        wait_until(lambda: hub.steps == 5)
        assert hub.verdict is None
        first.sendall(encode(Left(left=0)))
        wait_until(lambda: hub.members[0].left == 0)


@pytest.mark.parametrize(
    "words",
    [b'{"step": -1, "saved": null, "idle": 0.0, "waits": false, "place": ""}', b'{"left": 256}', b"[]",
     b'{"failure": {}}', b'{"step": 1, "saved": null, "idle": NaN, "waits": false, "place": ""}', b'{"preempt": 3}',
     b'{"left": 0, "x": 1}', b"x" * (2 << 20)],
)  # fmt: skip
def test_a_rank_that_talks_nonsense_is_a_failure(hub: Hub, words: bytes) -> None:
    with join(hub, 0) as rank:
        rank.sendall(words + b"\n")
        assert hub.decided.wait(5)
        assert hub.verdict is not None
        assert (hub.verdict.kind, hub.verdict.ranks) == ("death", (0,))
        assert "said what its hub does not understand (" in hub.verdict.error


def test_a_rank_fails_in_its_own_name(hub: Hub) -> None:
    with join(hub, 0) as rank:
        rank.sendall(encode(Failed(failure=Failure("exception", (1,), "b", 3, "ValueError: x", "Traceback", time=7.5))))
        assert hub.decided.wait(5)
        assert hub.verdict == Failure("exception", (0,), "a", 3, "ValueError: x", "Traceback", time=7.5)


def test_silent_connections_take_little_and_go(hub: Hub) -> None:
    """Many of them at once, each with as much as it may send: memory and descriptors stay as they were."""
    process, number = psutil.Process(), 400
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2 * number:
        pytest.skip("too few descriptors")
    with ExitStack() as stack:
        memory, descriptors = process.memory_info().rss, process.num_fds()
        for _ in range(number):
            stranger = stack.enter_context(connect(hub))
            stranger.sendall(b"x" * 1000)
        wait_until(lambda: process.num_fds() - descriptors <= number + RANKS + STRANGERS)
        assert process.memory_info().rss - memory < 8 << 20
        with join(hub, 1):  # through the crowd
            wait_until(lambda: 1 in hub.members)
            wait_until(lambda: process.num_fds() - descriptors <= number + 2)  # theirs, and both ends of the rank's
            assert hub.verdict is None
    assert 1 in hub.members


def test_an_error_of_the_hub_ends_the_run(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not leave ranks that nobody watches."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError("planted")

    with join(hub, 0) as rank:
        wait_until(lambda: 0 in hub.members)
        monkeypatch.setattr(hub, "_take", fail)
        rank.sendall(encode(Beat(step=5, saved=None, idle=0.0, waits=False, place="here")))
        assert hub.decided.wait(5)
        assert hub.verdict is not None
        assert hub.verdict.line().endswith(": the watch over the run failed: ZeroDivisionError: planted")


def test_an_error_of_its_beats_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(RANKS, FaultToleranceConfig(heartbeat_timeout_seconds=0.5), Secret.new())
    monkeypatch.setattr(hub, "_look_for_silence", lambda now: 1 / 0)
    hub.start()
    assert hub.decided.wait(5)
    assert hub.verdict is not None
    assert "the watch over the run failed: ZeroDivisionError" in hub.verdict.error
    hub.close()


def test_it_listens_where_it_is_told_and_nowhere_else(hub: Hub) -> None:
    def listens() -> set[str]:
        found = psutil.Process().net_connections("tcp")
        return {one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN and one.laddr.port == hub.port}

    assert listens() == {"127.0.0.1"}
    hub.close()
    wait_until(lambda: not listens())
