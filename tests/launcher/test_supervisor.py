"""When a supervisor starts a run again, where, and when it gives up. Attempts are played here."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from megachar.base.errors import PlatformError
from megachar.base.exit_codes import ExitCode
from megachar.config.loading import load_experiment
from megachar.launching import supervisor
from megachar.launching.attempt import Outcome
from megachar.launching.hostfile import Host
from megachar.launching.plan import LaunchPlan
from megachar.launching.supervisor import Supervisor, without
from megachar.watch.failure import Failure

DONE, LEFT = Outcome(ExitCode.DONE, None, 9), Outcome(ExitCode.PREEMPTED, None, 9)


def failed(error: str, saved: int | None = None, code: ExitCode = ExitCode.FAILED) -> Outcome:
    return Outcome(code, Failure("exception", (1,), "node2", 3, error, "Traceback of " + error), saved)


class Stage:
    """Plays outcomes in turn, and keeps the plans they were started with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outcomes: list[Outcome | Callable[[], Outcome]] = []
        self.plans: list[LaunchPlan] = []
        stage = self

        class Played:
            def __init__(self, plan: LaunchPlan) -> None:
                stage.plans.append(plan)

            def run(self) -> Outcome:
                outcome = stage.outcomes.pop(0)
                return outcome() if callable(outcome) else outcome

            def preempt(self, why: str) -> None: ...

            def kill(self) -> None: ...

        monkeypatch.setattr(supervisor, "Attempt", Played)
        monkeypatch.setattr(supervisor, "FIRST_PAUSE_SECONDS", 0.0)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


@pytest.fixture
def plan(tmp_path: Path) -> LaunchPlan:
    settings = [f"output={tmp_path}", "parallel.data=2", "parallel.pipe=2"]
    hosts = (Host("node1", 2), Host("node2", 2))
    return LaunchPlan(load_experiment("quickstart", settings), "quickstart", hosts=hosts, launcher="ssh")


def healthy(plan: LaunchPlan) -> tuple[LaunchPlan, dict[str, str]]:
    return plan, {}


def test_it_gives_up_with_the_first_cause_on_top(
    stage: Stage, plan: LaunchPlan, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.outcomes = [failed("first"), failed("second"), failed("third")]
    assert Supervisor(plan, 2, healthy).run() == ExitCode.FAILED
    assert len(stage.plans) == 3
    lines = capsys.readouterr().err.splitlines()
    end = lines.index("megachar launch: 3 failures in a row without a new checkpoint. First cause: rank 1 on node2, "
                      "step 3: first")  # fmt: skip
    assert lines[end + 1 : end + 4] == [
        "Traceback of first", "megachar launch: then: rank 1 on node2, step 3: second",
        "megachar launch: then: rank 1 on node2, step 3: third"]  # fmt: skip


def test_a_new_checkpoint_begins_the_count_again(stage: Stage, plan: LaunchPlan) -> None:
    stage.outcomes = [failed("a"), failed("b", saved=4), failed("c", saved=6), failed("d", saved=8), DONE]
    assert Supervisor(plan, 1, healthy).run() == ExitCode.DONE
    assert len(stage.plans) == 5


@pytest.mark.parametrize(
    ("outcome", "status"),
    [(DONE, 0), (LEFT, 75), (failed("width=-1", code=ExitCode.USER_ERROR), 2)],
)
def test_what_is_no_failure_is_not_tried_again(stage: Stage, plan: LaunchPlan, outcome: Outcome, status: int) -> None:
    stage.outcomes = [outcome]
    assert Supervisor(plan, 3, healthy).run() == status


def test_without_restarts_the_first_failure_is_the_end(stage: Stage, plan: LaunchPlan) -> None:
    stage.outcomes = [failed("a")]
    assert Supervisor(plan, 0, healthy).run() == ExitCode.FAILED


def test_it_resumes_a_run_that_was_recorded(stage: Stage, plan: LaunchPlan) -> None:
    def record() -> Outcome:
        plan.folder.experiment_file.parent.mkdir(parents=True, exist_ok=True)
        plan.folder.experiment_file.touch()
        return failed("b")

    stage.outcomes = [failed("a"), record, DONE]
    assert Supervisor(plan, 3, healthy).run() == ExitCode.DONE
    assert [started.resume for started in stage.plans] == [False, False, True]


def test_it_goes_on_with_the_hosts_that_answer(
    stage: Stage, plan: LaunchPlan, capsys: pytest.CaptureFixture[str]
) -> None:
    """And with all of them again when they do."""
    answers = [{"node2": "ssh: no route"}, {}, {}]

    def examine(plan: LaunchPlan) -> tuple[LaunchPlan, dict[str, str]]:
        return plan, answers.pop(0)

    stage.outcomes = [failed("a"), failed("b"), DONE]
    assert Supervisor(plan, 3, examine).run() == ExitCode.DONE
    assert [[host.name for host in started.used_hosts()] for started in stage.plans] == [
        ["node1", "node2"], ["node1"], ["node1", "node2"]]  # fmt: skip
    assert [started.experiment.parallel.data for started in stage.plans] == [2, 1, 2]
    assert {started.experiment.batch.global_size for started in stage.plans} == {plan.experiment.batch.global_size}
    assert "continuing without node2: ssh: no route" in capsys.readouterr().err


def test_too_few_hosts_are_a_failure_too(stage: Stage, plan: LaunchPlan, capsys: pytest.CaptureFixture[str]) -> None:
    stage.outcomes = [failed("a")]
    down = {"node1": "ssh: no route", "node2": "ssh: no route"}
    assert Supervisor(plan, 2, lambda plan: (plan, down)).run() == ExitCode.FAILED
    errors = capsys.readouterr().err
    assert "First cause: rank 1 on node2, step 3: a" in errors
    assert "then: no host: pipe 2 x tensor 1 x data 2 needs 4 slots and there are 0 (no host)" in errors


def test_a_signal_ends_the_restarts(stage: Stage, plan: LaunchPlan) -> None:
    def asked(number: int, outcome: Outcome, times: int = 1) -> Callable[[], Outcome]:
        def play() -> Outcome:
            for _ in range(times):
                os.kill(os.getpid(), number)
            return outcome

        return play

    before = signal.getsignal(signal.SIGTERM)
    stage.outcomes = [asked(signal.SIGTERM, LEFT)]
    assert Supervisor(plan, 3, healthy).run() == ExitCode.PREEMPTED
    stage.outcomes = [asked(signal.SIGUSR1, failed("died while it saved"))]
    assert Supervisor(plan, 3, healthy).run() == ExitCode.FAILED
    stage.outcomes = [asked(signal.SIGINT, failed("killed"), times=2)]
    assert Supervisor(plan, 3, healthy).run() == 128 + signal.SIGINT
    assert signal.getsignal(signal.SIGTERM) == before


def test_without_ssh_a_host_left_out_stops(plan: LaunchPlan) -> None:
    second = replace(plan, launcher="no_ssh", node_rank=1)
    assert without(second, {"node1"}).node_rank == 0
    with pytest.raises(PlatformError, match="the other hosts continue without node2; mend it and start the run again"):
        without(second, {"node2"})
