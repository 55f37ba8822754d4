"""Runs that fail, for real: restarted by the supervisor, given up, left on request; and a host that vanishes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megachar.base.exit_codes import ExitCode
from megachar.runs.folder import RunFolder
from tests.launcher.commands import LAUNCHER_VARIABLES, ROOT, SMALL, TRAIN, left_over, losses
from tests.launcher.machines import Cluster, why_not

FAULTY_LAUNCH = f"""
from functools import partial
from pathlib import Path
from megachar.cli import hosts, main
from megachar.launching import plan
plan.TRAIN_SCRIPT = Path({str(ROOT / "tools" / "faulty_train.py")!r})
hosts.LaunchPlan = partial(plan.LaunchPlan, script=plan.TRAIN_SCRIPT)
main()
"""
STACK = "most recent call first"
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in LAUNCHER_VARIABLES} | {
    "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # fmt: skip


class Launch:
    """`megachar launch` of the tiny experiment, whose ranks may have a planted fault."""

    def __init__(self, corpus: Path, output: Path, *more: str, fault: str = "") -> None:
        self.folder = RunFolder(output / "quickstart")
        self._where = f"output={output}"
        command = [sys.executable, "-c", FAULTY_LAUNCH, "launch", *SMALL, f"data.path={corpus}", self._where, *more]
        environment = ENVIRONMENT | ({"MEGACHAR_FAULT": fault} if fault else {})
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
                                        env=environment)  # fmt: skip
        self.output = self.errors = ""

    def wait(self) -> int:
        """Its status; nothing of it is left."""
        self.output, self.errors = self.process.communicate(timeout=120)
        assert left_over(f"{self.folder.path}/") == []
        return self.process.returncode

    def wait_for(self, pattern: str) -> None:
        """Until its log of rank 0 holds it."""
        log, until = self.folder.logs / "rank-0000.log", time.monotonic() + 100
        while not (log.exists() and re.search(pattern, log.read_text())):
            assert time.monotonic() < until
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)

    def starts(self) -> int:
        return len((self.folder.launch / "history.jsonl").read_text().splitlines())


def test_a_run_goes_on_after_a_death(corpus: Path, tmp_path: Path) -> None:
    """From the newest checkpoint, to the same losses."""
    more = ("training.checkpoint_interval=2", "training.total_steps=40")
    fault = f"die:1:30:{tmp_path / 'once'}"
    killed = Launch(corpus, tmp_path / "a", *more, "--max-restarts", "1", fault=fault)
    assert killed.wait() == ExitCode.DONE, killed.errors
    assert "megachar launch: rank 1 on " in killed.errors
    assert "ended without a word, as if killed" in killed.errors
    assert "restart 1 of 1 before the next checkpoint" in killed.errors
    assert "resumed at step " in killed.output
    assert killed.starts() == 2
    assert STACK in (killed.folder.logs / "rank-0000.log").read_text()
    undisturbed = Launch(corpus, tmp_path / "b", *more)
    assert undisturbed.wait() == ExitCode.DONE
    assert losses(tmp_path / "a", "quickstart") == losses(tmp_path / "b", "quickstart")
    assert len(losses(tmp_path / "a", "quickstart")) == 40


def test_it_gives_up_with_the_first_cause(corpus: Path, tmp_path: Path) -> None:
    run = Launch(corpus, tmp_path, "--max-restarts", "1", fault="raise:1:1")
    assert run.wait() == ExitCode.FAILED
    assert run.starts() == 2
    told = run.errors.partition("2 failures in a row without a new checkpoint. First cause: ")[2]
    assert re.match(r"rank 1 on \S+, step 1: RuntimeError: the planted fault\nTraceback", told)
    assert len(list(run.folder.failures.glob("*-exception-rank-1.json"))) == 2
    for rank in range(2):
        assert (run.folder.logs / f"rank-{rank:04d}.log").read_text().count(STACK) >= 2


def test_errors_of_the_user_are_not_tried_again(corpus: Path, tmp_path: Path) -> None:
    """Here: a checkpoint that cannot be written."""
    run = Launch(corpus, tmp_path, "training.checkpoint_interval=2", "--max-restarts", "3", "training.total_steps=400")
    run.wait_for("step 1/")
    (run.folder.path / "checkpoints").mkdir(exist_ok=True)
    (run.folder.path / "checkpoints").rename(run.folder.path / "moved")
    (run.folder.path / "checkpoints").write_text("no folder")
    assert run.wait() == ExitCode.USER_ERROR
    assert run.starts() == 1
    assert "CheckpointError" in run.errors


def test_a_signal_saves_and_the_run_goes_on_later(corpus: Path, tmp_path: Path) -> None:
    more = ("training.total_steps=400", "training.log_interval=1")
    run = Launch(corpus, tmp_path, *more, "--max-restarts", "3")
    run.wait_for(r"step 3/")
    asked = time.monotonic()
    run.process.send_signal(signal.SIGUSR1)
    assert run.wait() == ExitCode.PREEMPTED
    assert time.monotonic() - asked < 30
    assert "the run has left on request; continue with --resume" in run.errors
    assert run.starts() == 1
    (saved,) = run.folder.checkpoints.glob("step-*")
    again = Launch(corpus, tmp_path, *more, "--resume")
    again.wait_for(f"resumed at step {int(saved.name[5:])}")
    again.process.send_signal(signal.SIGTERM)
    again.process.send_signal(signal.SIGTERM)  # at once
    assert again.wait() in (128 + signal.SIGTERM, ExitCode.PREEMPTED)


def test_a_run_that_is_at_work_is_not_started_again(corpus: Path, tmp_path: Path) -> None:
    """Two starts at once, and two of other launchers' while the first trains: one trains, the others say who does."""
    more = ("training.total_steps=300", "training.checkpoint_interval=20")
    starts = [Launch(corpus, tmp_path, *more), Launch(corpus, tmp_path, *more)]
    until = time.monotonic() + 60
    while all(start.process.poll() is None for start in starts):
        assert time.monotonic() < until
        time.sleep(0.05)
    refused, first = sorted(starts, key=lambda start: start.process.poll() is None)
    first.wait_for(r"step 3/")
    plain = [sys.executable, TRAIN, *SMALL, *more, "parallel.pipe=1", f"data.path={corpus}", f"output={tmp_path}"]
    late = subprocess.run([*plain, "--resume"], capture_output=True, text=True, timeout=60, env=ENVIRONMENT, cwd=ROOT)
    again = Launch(corpus, tmp_path, *more, "--resume")
    for process, (_, errors) in (
        (late, ("", late.stderr)),
        (refused.process, refused.process.communicate(timeout=60)),
        (again.process, again.process.communicate(timeout=60)),
    ):
        assert process.returncode == ExitCode.USER_ERROR
        assert f"run {tmp_path}/quickstart is at work: process {first.process.pid} on " in errors
        assert "Traceback" not in errors
    first.process.send_signal(signal.SIGTERM)
    assert first.wait() == ExitCode.PREEMPTED
    steps = [json.loads(line)["step"] for line in first.folder.metrics_file.read_text().splitlines()
             if '"kind": "train"' in line]  # fmt: skip
    assert steps == list(range(1, len(steps) + 1))
    assert first.starts() == 1
    assert not first.folder.owner_file.exists()


def test_chaos(tmp_path: Path) -> None:
    """One run over four processes: bad steps stop it, then the disk is full, then its supervisor is killed as it saves.
    Each time it goes on, to the undisturbed run's weights and metrics. Preemption and a rank's death are tested above.
    """
    if (reason := why_not()) is not None:
        pytest.skip(reason)  # a full disk has to be mounted, too
    command = [sys.executable, str(ROOT / "tools" / "chaos.py"), "runs", "--runs", "1", "--folder", str(tmp_path),
               "--layout", "pipe 4", "--seed", "1280"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = [json.loads(line) for line in (tmp_path / "disturbed.jsonl").read_text().splitlines()]
    assert run["kinds"] == ["bad steps", "full disk", "kill -9"]
    assert (run["statuses"], run["starts"]) == ([2, 2, -9, 0], 4)
    assert (run["same_weights"], run["same_metrics"]) == (True, True)


def test_a_host_that_vanishes(fresh_cluster: Cluster, corpus: Path, tmp_path: Path) -> None:
    """Its link is set down while it trains: its ranks end by themselves, and the others go on without it."""
    _, second, login = fresh_cluster.machines
    hostfile = fresh_cluster.hostfile([2, 2])
    settings = ["training.total_steps=300", "training.checkpoint_interval=10", "parallel.data=2",
                "training.log_interval=50", "fault_tolerance.heartbeat_timeout_seconds=6",
                f"data.path={corpus}", f"output={tmp_path}"]  # fmt: skip
    command = [sys.executable, "-c", "from megachar.cli import main; main()", "launch", *SMALL, *settings,
               "--hostfile", str(hostfile), "--max-restarts", "2", "--timeout", "20"]  # fmt: skip
    run = login.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    folder = RunFolder(tmp_path / "quickstart")
    until = time.monotonic() + 150
    while not list(folder.checkpoints.glob("step-*")):
        assert time.monotonic() < until
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    fresh_cluster.set_link(second, up=False)
    cut = time.monotonic()
    while any("train.py" in line for line in second.processes()):
        assert time.monotonic() - cut < 40
        time.sleep(0.1)
    output, errors = run.communicate(timeout=240)
    assert run.returncode == 0, output + errors
    assert "ranks 2, 3 on node2" in errors
    assert "was not heard of for" in errors
    assert "continuing without node2" in errors
    history = [json.loads(line) for line in (folder.launch / "history.jsonl").read_text().splitlines()]
    assert [[host["name"] for host in start["hosts"]] for start in history] == [["node1", "node2"], ["node1"]]
    assert "parallel.data=1" in history[1]["overrides"]
    assert "step 300/300" in output
