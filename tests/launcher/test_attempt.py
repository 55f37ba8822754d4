"""How an attempt ended where only the launcher's status tells."""

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from megachar.base.exit_codes import ExitCode
from megachar.config.loading import load_experiment
from megachar.launching import attempt as attempt_module
from megachar.launching.attempt import Attempt, newest_step, outcome_of_status, own_addresses
from megachar.launching.hostfile import Host
from megachar.launching.network import interface_addresses, is_loopback
from megachar.launching.plan import LaunchPlan
from megachar.launching.processes import signal_ranks
from megachar.watch.failure import Failure


@pytest.mark.parametrize(
    ("status", "finished", "code", "fails"),
    [(0, True, ExitCode.DONE, False), (0, False, ExitCode.FAILED, True), (75, False, ExitCode.PREEMPTED, False),
     (1, True, ExitCode.FAILED, True), (2, False, ExitCode.USER_ERROR, True), (3, False, ExitCode.FAILED, True),
     (247, False, ExitCode.FAILED, True)],
)  # fmt: skip
def test_the_status_of_a_launcher(status: int, finished: bool, code: ExitCode, fails: bool) -> None:
    outcome = outcome_of_status(status, 7, finished)
    assert (outcome.code, outcome.saved) == (code, 7)
    assert (outcome.cause is not None) == fails
    if outcome.cause is not None:
        assert f"the launcher ended with status {status}; the ranks' logs say why" in outcome.cause.line()


def test_the_newest_checkpoint(tmp_path: Path) -> None:
    plan = LaunchPlan(load_experiment("quickstart", [f"output={tmp_path}"]), "quickstart")
    assert newest_step(plan) is None
    for name in ("step-00000090", "step-00000100.1", ".step-00000110.part", "step-of-mine"):
        (tmp_path / "quickstart" / "checkpoints" / name).mkdir(parents=True)
    assert newest_step(plan) == 100


def test_where_ranks_find_the_supervisor(tmp_path: Path) -> None:
    """Also where the one host left is known by its own loopback address: elsewhere that leads nowhere."""
    plan = LaunchPlan(load_experiment("quickstart", [f"output={tmp_path}"]), "quickstart")
    assert own_addresses(plan) == ("127.0.0.1",)
    elsewhere = replace(plan, hosts=(Host("node1", 2),), launcher="ssh", addresses={"node1": "127.0.1.1"})
    found = own_addresses(elsewhere)
    others = [address for own in interface_addresses().values() for address in own if ":" not in address]
    assert set(others) <= set(found)
    assert own_addresses(replace(elsewhere, launcher="no_ssh")) == ("127.0.0.1",)  # rank 0 has the hub
    assert [is_loopback(address) for address in found] == sorted(is_loopback(address) for address in found)


def test_only_ranks_are_signalled() -> None:
    environment = {"PATH": os.environ["PATH"], "MARK": "a token of its own"}
    with (
        subprocess.Popen(["sleep", "60"], env=environment) as launcher,
        subprocess.Popen(["sleep", "60"], env={**environment, "RANK": "0"}) as rank,
    ):
        time.sleep(0.2)
        signal_ranks("a token of its own", signal.SIGUSR1)
        assert rank.wait(10) == -signal.SIGUSR1
        assert launcher.poll() is None
        launcher.kill()


@pytest.mark.parametrize(("killed", "kind"), [(True, "launcher"), (False, "death")])
def test_a_killed_launcher_is_not_taken_for_a_dead_rank(tmp_path: Path, killed: bool, kind: str) -> None:
    """Its ranks die with it, and the hub sees nothing but their deaths."""
    attempt = Attempt(LaunchPlan(load_experiment("quickstart", [f"output={tmp_path}"]), "quickstart"))
    attempt.hub.verdict = Failure("death", (1,), "here", 3, "ended without a word, as if killed")
    attempt.launcher_ended_by = signal.SIGKILL if killed else None
    outcome = attempt._outcome(-signal.SIGKILL)
    assert outcome.code == ExitCode.FAILED
    assert outcome.cause is not None
    assert outcome.cause.kind == kind
    assert (outcome.cause.error == "SIGKILL ended the launcher, and the ranks with it") == killed


def test_the_secret_is_in_one_file_for_the_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the environment, which pdsh puts on its command line, nor in any other file of the run."""
    experiment = load_experiment("quickstart", [f"output={tmp_path}"])
    plan = LaunchPlan(experiment, "quickstart", hosts=(Host("localhost", 2),), launcher="ssh")
    seen = tmp_path / "seen"
    words = f"cp -rp {plan.folder.path} {seen}; env >{seen}/env"
    monkeypatch.setattr(attempt_module, "command_of", lambda _: ["sh", "-c", words])
    monkeypatch.setattr(attempt_module, "end_command", lambda *_: None)
    attempt = Attempt(plan)
    attempt.run()
    files = {path.name: path for path in seen.rglob("*") if path.is_file()}
    secret = files.pop(f"{attempt.secret.name}.secret")
    assert secret.stat().st_mode & 0o777 == 0o600
    assert secret.read_bytes() == attempt.secret.key
    assert {"env", "environment", "history.jsonl", "experiment.yaml"} <= files.keys()
    for path in files.values():
        content = path.read_bytes()
        assert attempt.secret.key not in content
        assert attempt.secret.key.hex().encode() not in content
    assert f"/{attempt.secret.name}".encode() in files["environment"].read_bytes()  # by which it is found
    assert not list(plan.folder.launch.glob("*.secret"))


@pytest.mark.parametrize(("launcher", "held"), [("local", True), ("ssh", False)])
def test_no_signal_is_lost_before_the_launcher_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str, held: bool
) -> None:
    """Our own one takes them later; those of others would never."""
    plan = LaunchPlan(load_experiment("quickstart", [f"output={tmp_path}"]), "quickstart",
                      hosts=() if held else (Host("localhost", 2),), launcher=launcher)  # fmt: skip
    monkeypatch.setattr(attempt_module, "command_of", lambda _: ["cp", "/proc/self/status", str(tmp_path / "status")])
    monkeypatch.setattr(attempt_module, "end_command", lambda *_: None)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    Attempt(plan).run()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    blocked = int((tmp_path / "status").read_text().partition("SigBlk:")[2].split()[0], 16)
    assert [bool(blocked >> number - 1 & 1) for number in (signal.SIGTERM, signal.SIGUSR1)] == [held, held]
