"""The folder of a run: what is in it, and the checks that nothing in it is overwritten. Imports no torch."""

import shutil
from pathlib import Path
from typing import Any

from megachar.base.errors import ConfigError
from megachar.base.files import atomic_write, json_text
from megachar.config.experiment import Experiment
from megachar.config.loading import load_saved, save_experiment


class RunFolder:
    """Paths inside a run folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.experiment_file = path / "resolved.yaml"
        """The resolved experiment."""
        self.owner_file = path / "owner.json"
        """Who trains there (`ownership`)."""
        self.versions_file = path / "versions.json"
        """What each start trained with and on (`versions`)."""
        self.metrics_file = path / "metrics.jsonl"
        """One JSON object per line: training, validation and the like."""
        self.tensorboard = path / "tensorboard"
        """TensorBoard's event files."""
        self.checkpoints = path / "checkpoints"
        """One folder per checkpoint."""
        self.failures = path / "failures"
        """One record (`watch.failure`) per rank that failed, and of whoever ended a run."""
        self.plots = path / "plots"
        """Pictures."""
        self.logs = path / "logs"
        """What each rank printed: rank-0000.log and so on."""
        self.launch = path / "launch"
        """How the run was started: hosts, layout, command, and the files the command names."""

    def load_experiment(self) -> Experiment:
        """The experiment the run was started with."""
        if not self.experiment_file.is_file():
            inside = runs_inside(self.path)
            if inside:
                raise ConfigError(f"{self.path} is a folder of runs, and one of them is needed here; name it, "
                                  f"such as {inside[0]}")  # fmt: skip
            raise ConfigError(f"{self.path} is not a run folder: it has no {self.experiment_file.name}; "
                              f"name one such as runs/small")  # fmt: skip
        return load_saved(self.experiment_file)

    def record(self, experiment: Experiment, deepspeed_config: dict[str, object], step: int) -> None:
        """Make the folder and write what the run is: experiment, and DeepSpeed's JSON as rendered.

        A run that goes on from `step` with other settings keeps the settings it had until then beside the new ones.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if self.experiment_file.exists() and self.load_experiment() != experiment:
            with atomic_write(self.path / f"resolved-until-step-{step}.yaml") as part:
                shutil.copyfile(self.experiment_file, part)
        save_experiment(experiment, self.experiment_file)
        with atomic_write(self.path / "deepspeed.json") as part:
            part.write_text(json_text(deepspeed_config, indent=2) + "\n", encoding="utf-8")


def starts_of(versions: dict[str, Any]) -> list[dict[str, Any]]:
    """What the starts of a run trained with, by its versions.json; older megachars wrote the newest one's alone."""
    starts = versions.get("starts", [versions] if versions else [])
    return [start for start in starts if isinstance(start, dict)] if isinstance(starts, list) else []


def run_folder(experiment: Experiment) -> RunFolder:
    """The folder of an experiment: output / name."""
    return RunFolder(Path(experiment.output) / experiment.name)


def runs_inside(path: Path) -> list[Path]:
    """The run folders directly inside a folder, such as that of a sweep, by their names; hidden ones are none.

    OSError where it cannot be looked into.
    """
    if not path.is_dir():
        return []
    return sorted(one for one in path.iterdir()
                  if not one.name.startswith(".") and RunFolder(one).experiment_file.is_file())  # fmt: skip
