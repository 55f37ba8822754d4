"""The three forms a model comes in: a run folder, a folder of one checkpoint, an exported file. Imports no torch."""

from pathlib import Path

from megachar.config.loading import parse_experiment
from megachar.config.schema import Experiment
from megachar.errors import CheckpointError, ConfigError
from megachar.training.checkpoints.format import MANIFEST, Checkpoint, find_checkpoint, read_checkpoint
from megachar.training.checkpoints.single_file import read_card
from megachar.training.run_folder import RunFolder


def load_settings(path: Path) -> Experiment:
    """The experiment behind any of the three forms.

    Raises:
        ConfigError: `path` is none of them.
        CheckpointError: it is a checkpoint or file that is damaged, or does not say.
    """
    if path.is_file():
        return _parsed(path, read_card(path).settings)
    if not is_checkpoint(path):
        return RunFolder(path).load_experiment()
    settings, run = read_checkpoint(path).manifest.settings, run_around(path)
    return run.load_experiment() if settings is None and run is not None else _parsed(path, settings)


def find_source(path: Path, step: int | None) -> Checkpoint:
    """The checkpoint that `path`, a run folder or a checkpoint's own, stands for.

    Raises:
        ConfigError: it is neither, or `step` is given with a folder of one checkpoint.
        CheckpointError: there is none, or its manifest is damaged.
    """
    if is_checkpoint(path):
        refuse_step(path, step)
        return read_checkpoint(path)
    if not RunFolder(path).experiment_file.is_file():
        raise ConfigError(f"{path} is neither a run folder nor a checkpoint: it has no {MANIFEST} and no resolved.yaml")
    return find_checkpoint(RunFolder(path), step)


def refuse_step(path: Path, step: int | None) -> None:
    """`ConfigError` where a step is asked for of what holds only one."""
    if step is not None:
        raise ConfigError(f"--step {step}: {path} is one checkpoint and has no others; leave --step out, or name the "
                          f"run folder")  # fmt: skip


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is the folder of one checkpoint."""
    return (path / MANIFEST).is_file()


def run_around(path: Path) -> RunFolder | None:
    """The run folder that a checkpoint's folder lies in; None where it lies elsewhere."""
    run = RunFolder(path.resolve().parent.parent)
    return run if run.experiment_file.is_file() and path.resolve().parent == run.checkpoints else None


def result_path(path: Path, name: str) -> Path:
    """Where a result called `name` about any of the three forms goes: into the run folder, or beside the others."""
    if path.is_file():
        return path.with_name(f"{path.stem}.{name}")
    if not is_checkpoint(path):
        return path / name
    run = run_around(path)
    return run.path / name if run is not None else path.resolve().with_name(f"{path.resolve().name}.{name}")


def _parsed(path: Path, settings: dict[str, object] | None) -> Experiment:
    if settings is None:
        raise CheckpointError(f"{path} does not hold the experiment's settings: it was saved by an older megachar and "
                              f"has left its run folder; name the run folder")  # fmt: skip
    return parse_experiment(settings, str(path))
