"""Which runs of a sweep are started, resumed and passed over, and what becomes of the sweep. Runs are played here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megachar.base.errors import ConfigError, PlatformError
from megachar.base.exit_codes import ExitCode
from megachar.config.loading import save_experiment
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.vocabulary import ByteVocabulary
from megachar.families.parameters import layer_names
from megachar.runs.checkpoints.format import identity
from megachar.runs.folder import run_folder
from megachar.sweeps.progress import Progress, State, progress_of
from megachar.sweeps.running import RunEnd, run_sweep
from megachar.sweeps.sweep import SweepRun, load_sweep, plan_runs
from tests.config.conftest import BASE

DONE, FAILED = RunEnd(ExitCode.DONE, False), RunEnd(ExitCode.FAILED, False)
LEFT = RunEnd(ExitCode.PREEMPTED, True)


def plan(folder: Path, *overrides: str) -> tuple[SweepRun, ...]:
    """Three runs of 400 steps."""
    path = folder / "sweep.yaml"
    path.write_text(json.dumps({"name": "mine", "base": BASE, "grid": {"seed": [1, 2, 3]}}))
    return plan_runs(load_sweep(str(path)), None, [f"output={folder}", *overrides])


def train(run: SweepRun, step: int, bits: float | None = 2.5, **more: Any) -> None:
    """The run folder as training to that step leaves it; 0: without a checkpoint."""
    folder = run_folder(run.experiment)
    folder.path.mkdir(parents=True, exist_ok=True)
    save_experiment(run.experiment, folder.experiment_file)
    if step:
        checkpoint = folder.checkpoints / f"step-{step:08d}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        layers, record = layer_names(run.experiment.model), {"bytes": 0, "sha256": "0" * 64}
        files = {f"{kind}/{layer}.safetensors": record for kind in ("weights", "optimizer") for layer in layers}
        manifest = {"format_version": 1, "experiment": identity(run.experiment), "files": files, "step": step,
                    "optimizer_steps": step, "loss_scaler": {}, "validation_bits": bits, **more}  # fmt: skip
        (checkpoint / "manifest.json").write_text(json.dumps(manifest))


class Stage:
    """Plays runs: by default each is trained to its end. Keeps what was started and what was said."""

    def __init__(self) -> None:
        self.plays: dict[str, RunEnd | Callable[[], RunEnd]] = {}
        self.started: list[tuple[str, bool]] = []
        self.said: list[str] = []
        self.failed: tuple[str, ...] = ()

    def start(self, run: SweepRun, resume: bool) -> RunEnd:
        self.started.append((run.name, resume))
        play = self.plays.get(run.name, DONE)
        end = play() if callable(play) else play
        if end.status == ExitCode.DONE:
            train(run, 400)
        return end

    def run(self, runs: tuple[SweepRun, ...]) -> int:
        self.started.clear()
        self.said.clear()
        end = run_sweep(runs, self.start, self.said.append)
        self.failed = end.failed
        return end.status


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_one_after_another(stage: Stage, tmp_path: Path) -> None:
    assert stage.run(plan(tmp_path)) == ExitCode.DONE
    assert stage.started == [("seed-1", False), ("seed-2", False), ("seed-3", False)]
    assert stage.said[:2] == [
        "run 1 of 3, seed-1: seed=1; 400 steps",
        "run 1 of 3, seed-1: finished, validation 2.5000 bits per character",
    ]
    assert stage.said[-1] == "all 3 runs are finished"


def test_finished_runs_are_passed_over_and_others_go_on(stage: Stage, tmp_path: Path) -> None:
    runs = plan(tmp_path)
    train(runs[0], 400)
    train(runs[1], 120)
    assert [progress_of(run.experiment) for run in runs] == [
        Progress(State.FINISHED, 400, 2.5), Progress(State.UNFINISHED, 120, 2.5), Progress(State.TO_DO)]  # fmt: skip
    assert stage.run(runs) == ExitCode.DONE
    assert stage.started == [("seed-2", True), ("seed-3", False)]
    assert stage.said[0] == "run 1 of 3, seed-1: finished already, validation 2.5000 bits per character"
    assert stage.said[1] == "run 2 of 3, seed-2: seed=2; 400 steps, continuing from 120"
    assert stage.run(runs) == ExitCode.DONE
    assert stage.started == []


def test_a_run_that_stopped_early_is_finished(stage: Stage, tmp_path: Path) -> None:
    patience = ["training.early_stopping_patience=2", "training.validation_interval=100",
                "training.checkpoint_interval=100"]  # fmt: skip
    runs = plan(tmp_path, *patience)
    for run, since in zip(runs, (2, 1, 0), strict=True):
        train(run, 300, loop_state={"lowest_validation": 2.5, "since_lowest": since})
    stage.run(runs)
    assert stage.started == [("seed-2", True), ("seed-3", True)]


def test_a_run_stopped_before_its_first_checkpoint_goes_on(stage: Stage, tmp_path: Path) -> None:
    runs = plan(tmp_path)
    train(runs[0], 0)
    stage.run(runs)
    assert stage.started[0] == ("seed-1", True)


def test_a_failed_run_is_reported_and_the_others_run(stage: Stage, tmp_path: Path) -> None:
    runs = plan(tmp_path)
    stage.plays["seed-2"] = FAILED
    assert stage.run(runs) == ExitCode.FAILED
    assert [name for name, _ in stage.started] == ["seed-1", "seed-2", "seed-3"]
    assert f"run 2 of 3, seed-2: failed with status 1; see {tmp_path}/mine/seed-2/logs" in stage.said
    assert stage.said[-1] == "1 of 3 runs failed: seed-2; the same command tries them again"
    assert stage.failed == ("seed-2",)
    del stage.plays["seed-2"]
    assert stage.run(runs) == ExitCode.DONE
    assert [name for name, _ in stage.started] == ["seed-2"]


def test_a_host_that_cannot_be_used_later(stage: Stage, tmp_path: Path) -> None:
    """Is a failure of that run; before the first one it is an error of the command."""

    def down() -> RunEnd:
        raise PlatformError("node2 is down")

    stage.plays["seed-2"] = down
    assert stage.run(plan(tmp_path)) == ExitCode.FAILED
    assert "run 2 of 3, seed-2: PlatformError: node2 is down" in stage.said
    assert [name for name, _ in stage.started] == ["seed-1", "seed-2", "seed-3"]
    with pytest.raises(PlatformError, match="node2 is down"):
        stage.run(plan(tmp_path))


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (LEFT, 75),
        (RunEnd(ExitCode.PREEMPTED, False), 75),  # a scheduler asked a rank
        (RunEnd(130, True), 130),
        (RunEnd(ExitCode.FAILED, True), 1),  # it died while it saved
        (RunEnd(ExitCode.DONE, True), 75),  # it had just come to its end
    ],
)
def test_a_request_ends_the_sweep(stage: Stage, tmp_path: Path, end: RunEnd, status: int) -> None:
    stage.plays["seed-2"] = end
    assert stage.run(plan(tmp_path)) == status
    assert [name for name, _ in stage.started] == ["seed-1", "seed-2"]
    assert stage.said[-1] == "left on request; the same command continues the sweep"
    how = {0: ["finished"], 1: ["failed"]}.get(end.status, [])
    assert [line.split()[5].rstrip(",") for line in stage.said[3:-1]] == how


def test_a_request_at_the_very_end_changes_nothing(stage: Stage, tmp_path: Path) -> None:
    runs = plan(tmp_path)
    train(runs[2], 400)
    stage.plays["seed-2"] = RunEnd(ExitCode.DONE, True)
    assert stage.run(runs) == ExitCode.DONE
    assert stage.said[-1] == "all 3 runs are finished"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.total_steps=500", r"run .*/mine/seed-1 was started with training.total_steps = 400, and the "
                                     r"sweep now has 500; set it back, or start another sweep with name=ANOTHER"),
        ("optimizer.name=sgd", r"was started with optimizer.name = adamw, and the sweep now has sgd"),
    ],
)  # fmt: skip
def test_a_run_of_other_settings_is_refused(stage: Stage, tmp_path: Path, override: str, message: str) -> None:
    train(plan(tmp_path)[0], 400)
    with pytest.raises(ConfigError, match=message):
        stage.run(plan(tmp_path, override))
    assert stage.started == []


def test_another_layout_goes_on(stage: Stage, tmp_path: Path) -> None:
    train(plan(tmp_path)[0], 100)
    assert stage.run(plan(tmp_path, "parallel.pipe=1", "parallel.data=2", "deepspeed=fp32_zero2")) == ExitCode.DONE
    assert stage.started[0] == ("seed-1", True)


def test_a_sweep_goes_on_wherever_it_is_and_however_paths_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run folder that was moved, whose settings an older megachar saved with a relative path."""
    (tmp_path / "text").write_bytes(b"some text " * 200)
    prepare_corpus(cut_by_position(tmp_path / "text"), tmp_path / "corpus", ByteVocabulary())
    monkeypatch.chdir(tmp_path)
    before, *_ = plan(tmp_path, "data.path=corpus")
    train(before, 400)
    file = run_folder(before.experiment).experiment_file
    assert f"path: {tmp_path}/corpus" in file.read_text()
    file.write_text(file.read_text().replace(f"path: {tmp_path}/corpus", "path: corpus"))
    (tmp_path / "new").mkdir()
    (tmp_path / "mine").rename(tmp_path / "new" / "mine")
    again, *_ = plan(tmp_path, "data.path=./corpus", "output=new")
    assert again.experiment.data.path == str(tmp_path / "corpus")
    assert progress_of(again.experiment) == Progress(State.FINISHED, 400, 2.5)
