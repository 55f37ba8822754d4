"""How an attempt ended where only the launcher's status tells."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from megachar.config.loading import load_experiment
from megachar.exit_codes import ExitCode
from megachar.launching.attempt import newest_step, outcome_of_status
from megachar.launching.plan import LaunchPlan
from megachar.launching.processes import signal_ranks


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
    for name in ("step-00000090", "step-00000100.1", ".step-00000110.part"):
        (tmp_path / "quickstart" / "checkpoints" / name).mkdir(parents=True)
    assert newest_step(plan) == 100


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
