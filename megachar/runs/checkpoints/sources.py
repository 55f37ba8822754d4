"""The three forms a model comes in: a run folder, a folder of one checkpoint, an exported file. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path

from megachar.base.errors import CheckpointError, ConfigError
from megachar.config.experiment import Experiment
from megachar.config.loading import parse_experiment
from megachar.runs.checkpoints.format import (
    MANIFEST,
    Checkpoint,
    TrainingState,
    checkpoint_folders,
    find_checkpoint,
    read_checkpoint,
)
from megachar.runs.checkpoints.single_file import read_card
from megachar.runs.checkpoints.tensors import checkpoint_shapes, problem_of_shapes, tensor_shapes
from megachar.runs.folder import RunFolder


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
        CheckpointError: there is none, or it is damaged as far as `check_checkpoint` sees.
    """
    if is_checkpoint(path):
        refuse_step(path, step)
        checkpoint = read_checkpoint(path)
    elif RunFolder(path).experiment_file.is_file():
        checkpoint = find_checkpoint(RunFolder(path), step)
    else:
        raise ConfigError(f"{path} is neither a run folder nor a checkpoint: it has no {MANIFEST} and no resolved.yaml")
    check_checkpoint(checkpoint)
    return checkpoint


def check_source(path: Path, step: int | None) -> list[str]:
    """See that any of the three forms is whole, as far as that shows without its tensors.

    Returns what is wrong with newer checkpoints of a run, in place of which an older one is taken.

    Raises:
        ConfigError, CheckpointError: as from `load_settings` and `find_source`.
    """
    if path.is_file():
        refuse_step(path, step)
        check_file(path)
        return []
    find_source(path, step)
    return [] if step is not None or is_checkpoint(path) else damaged_newest(RunFolder(path))


def check_checkpoint(checkpoint: Checkpoint) -> None:
    """`CheckpointError` unless the files have their sizes, and tensors in number and shape as its settings ask for."""
    problem = _problem_of_symbols(checkpoint.manifest, load_settings(checkpoint.path)) or problem_of_headers(checkpoint)
    if problem is not None:
        raise CheckpointError(f"{checkpoint.path} is damaged: {problem}; {checkpoint.mend}")


def problem_of_headers(checkpoint: Checkpoint) -> str | None:
    """What is wrong with the number and the shapes of a checkpoint's tensors, from the headers of its files.

    CheckpointError where one cannot be read.
    """
    return problem_of_shapes(checkpoint_shapes(checkpoint), load_settings(checkpoint.path), "all")


def check_file(path: Path) -> None:
    """`CheckpointError` unless an exported file holds tensors in number and shape as its settings ask for."""
    card, experiment, shapes = read_card(path), load_settings(path), tensor_shapes(path)
    problem = _problem_of_symbols(card, experiment) or problem_of_shapes(shapes, experiment, card.contents)
    if problem is not None:
        raise CheckpointError(f"{path} is damaged: {problem}; export it again")


def _problem_of_symbols(state: TrainingState, experiment: Experiment) -> str | None:
    """What is wrong with the number of symbols."""
    found, expected = state.vocabulary, experiment.model.vocabulary_size
    if found is None or found.size == expected:
        return None
    return f"its vocabulary has {found.size} symbols, its model {expected}"


def check_resumable(folder: RunFolder) -> None:
    """`CheckpointError` where a run has checkpoints, and `check_checkpoint` finds fault with all."""
    problems = []
    for path in reversed(checkpoint_folders(folder)):
        try:
            check_checkpoint(read_checkpoint(path))
        except CheckpointError as error:
            problems.append(str(error).partition(";")[0])
        else:
            return
    if problems:
        raise none_whole(folder, problems)


def none_whole(folder: RunFolder, problems: Sequence[str]) -> CheckpointError:
    """The error of a run none of whose checkpoints is whole, for these reasons."""
    reasons = "\n".join(f"  {problem}" for problem in problems)
    return CheckpointError(
        f"{folder.path} has no whole checkpoint to resume from:\n{reasons}\n"
        f"put the files back, or move {folder.path} away and start over without --resume"
    )


def damaged_newest(folder: RunFolder) -> list[str]:
    """What is wrong with each of a run's checkpoints that is newer than the newest with a whole manifest."""
    problems = []
    for path in reversed(checkpoint_folders(folder)):
        try:
            read_checkpoint(path)
        except CheckpointError as error:
            problems.append(str(error))
        else:
            break
    return problems


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
