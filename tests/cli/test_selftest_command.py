"""`megachar selftest`: what it starts."""

import importlib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from megachar.base.errors import PlatformError
from megachar.cli import app, hosts
from megachar.launching.plan import SELFTEST_SCRIPT, LaunchPlan
from megachar.launching.probe import Failure
from megachar.launching.starting import command_of

MODULE: Any = importlib.import_module("megachar.cli.selftest")  # whose name in the package is the command's


def start(monkeypatch: pytest.MonkeyPatch, *arguments: str, failures: list[Failure] | None = None) -> LaunchPlan:
    """The plan that the command would have started."""
    plans: list[LaunchPlan] = []
    monkeypatch.setattr(hosts, "examine", lambda plan, _: (plan, failures or []))
    monkeypatch.setattr(MODULE, "run", lambda plan: plans.append(plan) or 0)
    monkeypatch.setattr(MODULE, "count_gpus", lambda: 0)
    CliRunner().invoke(app, ["selftest", *arguments], catch_exceptions=False)
    return plans[0]


def test_an_experiment_is_tested_on_its_layout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Beside its run folder, and without its data."""
    plan = start(monkeypatch, "quickstart", "parallel.pipe=3", f"output={tmp_path}", "--timeout", "7")
    assert plan.topology.pipe_size == 3
    assert plan.folder.path == tmp_path / "quickstart.selftest"
    assert not plan.trains
    assert command_of(plan)[-6:] == [str(SELFTEST_SCRIPT), str(plan.folder.launch / "experiment.yaml"),
                                   "--timeout", "7", "--slow-factor", "5"]  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_without_an_experiment_every_slot_has_a_replica(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    experiment = start(monkeypatch).experiment
    assert experiment.parallel.data == 2
    assert experiment.device == "auto"  # the GPUs, where there are some
    hostfile = tmp_path / "hosts"
    hostfile.write_text("node1 slots=3\nnode2 slots=3\n")
    plan = start(monkeypatch, "deepspeed=bf16_zero1", "--hostfile", str(hostfile))
    assert plan.experiment.parallel.data == 6
    assert plan.experiment.deepspeed == "bf16_zero1"
    assert [host.slots for host in plan.used_hosts()] == [3, 3]


def test_nothing_is_started_where_a_host_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [Failure("node2", "ssh", "no route to host")]
    with pytest.raises(PlatformError, match="the self-test cannot start on node2, see above; nothing was started"):
        start(monkeypatch, failures=failures)
