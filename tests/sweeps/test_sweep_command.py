"""`megachar sweep` as a user calls it."""

import importlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from megachar.base.exit_codes import ExitCode
from megachar.config.loading import save_experiment
from megachar.data.indexed_dataset import IndexedDataset
from megachar.families.counting import count_parameters
from megachar.launching.plan import LaunchPlan
from megachar.runs.folder import RunFolder, run_folder
from megachar.runs.metrics import read_metrics
from megachar.sweeps.sweep import load_sweep, plan_runs
from tests.cli import test_commands
from tests.cli.test_commands import Call, refused
from tests.config.conftest import BASE
from tests.launcher.commands import LAUNCH, ROOT, SMALL, left_over, losses

SWEEP = [*LAUNCH[:-1], "sweep"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
MODULE: Any = importlib.import_module("megachar.cli.sweep")  # whose name in the package is the command's

call, corpus = test_commands.call, test_commands.corpus


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("│")[1:-1]]


@pytest.fixture
def sweep_file(tmp_path: Path) -> str:
    path = tmp_path / "mine.yaml"
    variants = {"full": {}, "one-target": {"auxiliary.num_targets": 1}, "thin": {"model.width": 32}}
    path.write_text(json.dumps({"name": "mine", "base": BASE, "variants": variants}))
    return str(path)


def test_dry_run(sweep_file: str, corpus: Path, tmp_path: Path, call: Call) -> None:
    """The table of the runs; nothing is started or written."""
    settings = [f"data.path={corpus}", f"output={tmp_path}/runs"]
    runs = plan_runs(load_sweep(sweep_file), None, settings)
    folder = run_folder(runs[1].experiment)
    folder.path.mkdir(parents=True)
    save_experiment(runs[1].experiment, folder.experiment_file)
    counts = [f"{sum(part.training for part in count_parameters(run.experiment.model, run.experiment.auxiliary)):,}"
              for run in runs]  # fmt: skip
    result = call("sweep", sweep_file, *settings, "--dry-run")
    assert result.status == 0, result.err
    assert "mine: 3 runs" in result.out
    assert [cells(line) for line in result.out.splitlines() if "│" in line] == [
        ["full", "", counts[0], "400", "to do"],
        ["one-target", "auxiliary.num_targets=1", counts[1], "400", "unfinished, step 0"],
        ["thin", "model.width=32", counts[2], "400", "to do"],
    ]
    assert [path.name for path in (tmp_path / "runs").rglob("*")] == ["mine", "one-target", "resolved.yaml"]


def test_dry_run_opens_the_corpus_as_often_for_many_runs_as_for_one(
    corpus: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    initialize = IndexedDataset.__init__
    monkeypatch.setattr(IndexedDataset, "__init__", lambda self, prefix: (opened.append(prefix.name),
                                                                          initialize(self, prefix))[1])  # fmt: skip
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({"name": "mine", "grid": {"seed": list(range(8))}}))
    result = call("sweep", str(path), "--base", BASE, f"data.path={corpus}", f"output={tmp_path}/runs", "--dry-run")
    assert result.status == 0, result.err
    assert sorted(opened) == ["train", "valid"]
    assert not (tmp_path / "runs").exists()


def test_dry_run_without_data(call: Call) -> None:
    """What there is to run is shown all the same."""
    result = call("sweep", "ablation", "--dry-run")
    assert result.status == 2
    assert "without-intermediate-layers" in result.out
    assert "data.path is not set" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["abaltion"], r"ConfigError: no sweep is called 'abaltion'; did you mean 'ablation'\? [^\n]*"),
        (["{file}", "data.path=/nowhere"], r"DataError: no corpus at /nowhere: [^\n]*"),
        (["{file}", "data.path={corpus}", "--base", "t13"], r"ConfigError: run full of the sweep mine: no [^\n]*"),
        (["{file}", "data.path={corpus}", "--launcher", "ssh"], r"PlatformError: --launcher ssh needs the [^\n]*"),
        (["{file}", "data.path={corpus}", "--hostfile", "{hosts}"],
         r"PlatformError: pipe 2 x tensor 1 x data 1 needs 2 slots and there are 1 \(a slots=1\)[^\n]*"),
        (["sizes", "data.path={corpus}"], r"DataError: [^\n]*"),
    ],
)  # fmt: skip
def test_refusals(
    arguments: list[str], message: str, sweep_file: str, corpus: Path, tmp_path: Path, call: Call
) -> None:
    """Before anything is started or written."""
    hosts = tmp_path / "hosts"
    hosts.write_text("a slots=1\n")
    places = {"file": sweep_file, "corpus": corpus, "hosts": hosts}
    refused(call("sweep", *(text.format(**places) for text in arguments), f"output={tmp_path}/runs"), message)
    assert not (tmp_path / "runs").exists()


def test_each_run_is_launched_like_any_other(
    sweep_file: str, corpus: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[tuple[LaunchPlan, int]] = []

    class Played:
        asked_to_leave = False

        def __init__(self, plan: LaunchPlan, max_restarts: int, *_: object) -> None:
            plans.append((plan, max_restarts))

        def run(self) -> int:
            return ExitCode.FAILED if len(plans) == 2 else ExitCode.DONE

    monkeypatch.setattr(MODULE, "Supervisor", Played)
    result = call("sweep", sweep_file, f"data.path={corpus}", f"output={tmp_path}", "--max-restarts", "3")
    assert result.status == 1
    assert [plan.folder.path for plan, _ in plans] == [
        tmp_path / "mine" / name for name in ("full", "one-target", "thin")
    ]
    assert {restarts for _, restarts in plans} == {3}
    assert plans[2][0].overrides[:3] == (f"data.path={corpus}", f"output={tmp_path}", "model.width=32")
    assert all((plan.folder.launch / "experiment.yaml").is_file() for plan, _ in plans)
    assert "megachar sweep: 1 of 3 runs failed: one-target; the same command tries them again" in result.out
    # Played runs leave no records: what is known of them is that one failed.
    assert [cells(line) for line in result.out.splitlines() if "│" in line] == [
        ["full", "", "-", "-", "-", "not begun"], ["one-target", "num_targets=1", "-", "-", "-", "failed"],
        ["thin", "width=32", "-", "-", "-", "not begun"]]  # fmt: skip
    assert (tmp_path / "mine" / "results.csv").read_text().splitlines()[2] == "one-target,num_targets=1,,,,,,failed"


def test_a_sweep_is_stopped_and_goes_on(corpus: Path, tmp_path: Path) -> None:
    """Ctrl-C in the first of two runs; the same command takes both to their ends."""
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({"name": "mine", "grid": {"seed": [1, 2]}}))
    settings = [*SMALL[1:], "parallel.pipe=1", "training.total_steps=200", "model.context=16", "guard.action=off"]
    line = [*SWEEP, str(path), *settings, f"data.path={corpus}", f"output={tmp_path}", "--base", SMALL[0]]
    first, second = RunFolder(tmp_path / "mine" / "seed-1"), RunFolder(tmp_path / "mine" / "seed-2")
    results = tmp_path / "mine" / "results.csv"
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        until = time.monotonic() + 300
        while not read_metrics(first, "train") and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        assert read_metrics(first, "train"), "it did not start to train"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == ExitCode.PREEMPTED, out
    assert "megachar sweep: left on request; the same command continues the sweep" in out
    assert [line.split(",")[-1] for line in results.read_text().splitlines()] == ["state", "stopped", "not begun"]
    assert not second.path.exists()
    stopped = len(losses(first.path.parent, "seed-1"))
    assert 0 < stopped < 200

    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=400, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"run 1 of 2, seed-1: seed=1; 200 steps, continuing from {stopped}" in done.stdout
    assert "all 2 runs are finished" in done.stdout
    assert [line.split(",")[-1] for line in results.read_text().splitlines()] == ["state", "finished", "finished"]
    for name in ("seed-1", "seed-2"):
        assert [step for step, _ in losses(first.path.parent, name)] == list(range(1, 201))
    assert left_over(str(tmp_path)) == []
