"""Ranks under watch, as real processes without a model: each way to fail ends all of them, and says why."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from megachar.base.exit_codes import ExitCode
from megachar.config.sections.training import FaultToleranceConfig
from megachar.watch.address import HubAddress
from megachar.watch.hub import Hub
from megachar.watch.secret import Secret
from tests.watch.recorded import read_failures

PROCESS = Path(__file__).with_name("rank_process.py")
SETTINGS = FaultToleranceConfig(heartbeat_timeout_seconds=4, progress_timeout_seconds=8)
STACK = "most recent call first"


class Crew:
    """Ranks and their logs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ranks: list[subprocess.Popen[bytes]] = []

    def start(self, faults: list[str], hub: str, before: tuple[str, ...] = ()) -> None:
        for rank, fault in enumerate(faults):
            command = [*before, sys.executable, str(PROCESS), str(rank), str(len(faults)), str(self.folder), hub, fault]
            environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MEGACHAR_ATTEMPT": str(self.folder)}
            with (self.folder / f"log-{rank}").open("wb") as log:
                self.ranks.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))

    def wait_until(self, holds: Callable[[], bool]) -> None:
        until = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < until
            time.sleep(0.01)

    def wait_until_ready(self) -> None:
        self.wait_until(lambda: len(list(self.folder.glob("ready-*"))) == len(self.ranks))

    def codes(self) -> list[int]:
        """Exit statuses, once all have ended, which they must soon."""
        return [process.wait(60) for process in self.ranks]

    def log(self, rank: int) -> str:
        return (self.folder / f"log-{rank}").read_text(errors="replace")

    def close(self) -> None:
        for process in self.ranks:
            process.kill()
            process.wait()


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    crew = Crew(tmp_path)
    yield crew
    crew.close()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """As a supervisor holds it."""
    hub = Hub(3, SETTINGS, secret_in(tmp_path))
    hub.start()
    yield hub
    hub.close()


def secret_in(folder: Path) -> Secret:
    secret = Secret.new()
    secret.write(folder)
    return secret


def address_of(hub: Hub) -> str:
    return str(HubAddress(("127.0.0.1",), hub.port, hub.secret.name))


def ended_by(expected: int, code: int) -> bool:
    """Whether a rank ended as it should. Where it is aborted, writing its stacks may be what crashes (in CPython)."""
    return code == expected or (expected == -signal.SIGABRT and code == -signal.SIGSEGV)


FAULTS = {
    "die": (-signal.SIGKILL, "death", "ended without a word, as if killed"),
    "raise": (ExitCode.FAILED, "exception", "RuntimeError: the planted fault"),
    "stop": (-signal.SIGABRT, "silence", "was not heard of for 3 s; its process is stopped, or its host is gone"),
    "hold": (-signal.SIGABRT, "silence", "was not heard of for 3 s"),
    "sleep": (ExitCode.FAILED, "hang", "has made no progress for"),
}


@pytest.mark.parametrize(
    ("fault", "at_fault"),
    [("die", 0), ("die", 1), ("raise", 0), ("raise", 1), ("stop", 0), ("hold", 1), ("sleep", 1)],
)
def test_all_ranks_end_when_one_fails(crew: Crew, hub: Hub, fault: str, at_fault: int) -> None:
    """Under a supervisor: every rank's stacks are in its log, with the first cause before them."""
    code, kind, error = FAULTS[fault]
    crew.start([fault if rank == at_fault else "" for rank in range(3)], address_of(hub))
    codes = crew.codes()
    assert ended_by(code, codes.pop(at_fault))
    assert codes == [ExitCode.PEER_FAILED, ExitCode.PEER_FAILED]
    assert hub.verdict is not None
    assert (hub.verdict.kind, hub.verdict.ranks) == (kind, (at_fault,))
    assert error in hub.verdict.error
    for rank in {0, 1, 2} - {at_fault}:
        assert f"ends: rank {at_fault} on " in crew.log(rank)
        assert error in crew.log(rank)
        assert STACK in crew.log(rank).partition(error)[2]
        assert "shown" not in crew.log(rank)  # the supervisor does
    assert (STACK in crew.log(at_fault)) == (fault != "die")
    assert [failure.error for failure in read_failures(crew.folder / "failures")] == (
        ["RuntimeError: the planted fault"] if fault == "raise" else []
    )


@pytest.mark.parametrize(("fault", "at_fault"), [("die", 0), ("stop", 0), ("raise", 0), ("raise", 2), ("sleep", 2)])
def test_without_a_supervisor_rank_0_holds_the_hub(crew: Crew, fault: str, at_fault: int) -> None:
    crew.start([fault if rank == at_fault else "" for rank in range(3)], "rank0")
    codes = crew.codes()
    assert ended_by(FAULTS[fault][0], codes.pop(at_fault))
    assert codes == [ExitCode.PEER_FAILED, ExitCode.PEER_FAILED]
    lost = {"die": "which watches over the run, is gone", "stop": "which watches over the run, was not heard of"}
    error = FAULTS[fault][2] if fault in ("raise", "sleep") else lost[fault]
    for rank in {0, 1, 2} - {at_fault}:
        assert error in crew.log(rank)
        assert STACK in crew.log(rank)
    assert f"shown of rank {at_fault}" in "".join(crew.log(rank) for rank in range(3))
    recorded = read_failures(crew.folder / "failures")
    assert len(recorded) == 1
    assert recorded[0].ranks == (at_fault,)


def test_an_error_of_the_user_is_one_line(crew: Crew, hub: Hub) -> None:
    crew.start(["", "user_error", ""], address_of(hub))
    assert crew.codes() == [ExitCode.USER_ERROR] * 3
    for rank in range(3):
        assert "ConfigError: width=-1; set it to 1" in crew.log(rank)
        assert "Traceback" not in crew.log(rank)
        assert STACK not in crew.log(rank)


def test_a_rank_that_never_comes_is_named(crew: Crew) -> None:
    hub = Hub(3, SETTINGS, secret_in(crew.folder))
    hub.start()
    crew.start(["alone", "alone"], address_of(hub))
    assert crew.codes() == [ExitCode.PEER_FAILED] * 2
    assert hub.verdict is not None
    assert hub.verdict.ranks == (2,)
    assert "did not come within 6 s" in crew.log(0)
    hub.close()


def test_a_lost_supervisor_ends_all(crew: Crew) -> None:
    """Killed -9, its connections break."""
    code = """
import sys, time
from pathlib import Path
from megachar.config.sections.training import FaultToleranceConfig
from megachar.watch.address import HubAddress
from megachar.watch.hub import Hub
from megachar.watch.secret import Secret
secret = Secret.new()
secret.write(Path(sys.argv[1]))
hub = Hub(2, FaultToleranceConfig(), secret)
hub.start()
print(HubAddress(("127.0.0.1",), hub.port, secret.name), flush=True)
time.sleep(1000)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(crew.folder)], stdout=subprocess.PIPE, text=True
    ) as supervisor:
        assert supervisor.stdout is not None
        crew.start(["", ""], supervisor.stdout.readline().strip())
        crew.wait_until_ready()
        supervisor.kill()
    assert crew.codes() == [ExitCode.LAUNCHER_LOST] * 2
    for rank in range(2):
        assert "megachar launch, which watches over the run, is gone" in crew.log(rank)
        assert STACK in crew.log(rank)


@pytest.mark.parametrize("hub", ["rank0", "none"])
def test_a_lost_launcher_ends_all(crew: Crew, tmp_path: Path, hub: str) -> None:
    """Whoever started a rank and is a launcher; a shell is none."""
    launcher = tmp_path / "torchrun"
    launcher.write_text("import subprocess, sys\nsubprocess.run(sys.argv[1:])\n")
    crew.start(["", ""], hub, before=(sys.executable, str(launcher)))
    crew.wait_until(lambda: len(list(tmp_path.glob("**/joined-*"))) == 2)  # or one might not have met the hub yet
    ranks = [int(Path(f"/proc/{one.pid}/task/{one.pid}/children").read_text()) for one in crew.ranks]
    for one in crew.ranks if hub == "none" else crew.ranks[:1]:
        one.kill()
    crew.wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ranks))
    for rank in range(2):
        assert "launcher python" in crew.log(rank) or "launcher process" in crew.log(rank)
        assert "is gone" in crew.log(rank)
        assert STACK in crew.log(rank)


def test_a_rank_on_its_own_ends_when_it_hangs(crew: Crew) -> None:
    """By a timer that needs nothing of Python's."""
    crew.start(["hold"], "none")
    assert crew.codes() == [1]
    assert "Timeout (0:00:08)!" in crew.log(0)
    assert STACK in crew.log(0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_rank_reaches_all(crew: Crew, hub: Hub, number: signal.Signals) -> None:
    crew.start(["", "", ""], address_of(hub))
    crew.wait_until(lambda: hub.steps is not None)
    crew.ranks[2].send_signal(number)
    assert crew.codes() == [ExitCode.PREEMPTED] * 3
    assert hub.verdict is None
    assert hub.saved is not None
    for rank in range(3):
        assert f"{number.name} to rank 2 on " in crew.log(rank)
        assert "leaving with a checkpoint" in crew.log(rank)


def test_before_training_a_signal_ends_at_once(crew: Crew, hub: Hub) -> None:
    crew.start(["wait", "wait", "wait"], address_of(hub))
    crew.wait_until_ready()
    crew.ranks[1].send_signal(signal.SIGTERM)
    assert crew.codes() == [ExitCode.PREEMPTED] * 3


def test_ranks_that_finish_are_not_missed(crew: Crew) -> None:
    crew.start(["", "", ""], "rank0")
    crew.wait_until(lambda: (crew.folder / "hub").exists())
    (crew.folder / "finish").touch()
    assert crew.codes() == [0, 0, 0]
    assert all(STACK not in crew.log(rank) for rank in range(3))


def test_a_hub_out_of_reach_is_told(crew: Crew) -> None:
    crew.start([""], f"127.0.0.1:1/{secret_in(crew.folder).name}")
    assert crew.codes() == [ExitCode.USER_ERROR]
    assert "cannot reach what watches over the run (127.0.0.1:1: " in crew.log(0)
    assert "shown of rank 0" in crew.log(0)
