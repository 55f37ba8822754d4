"""How far each run of a sweep is, from its run folder. Imports no torch."""

from dataclasses import dataclass
from enum import Enum

from megachar.base.errors import ConfigError
from megachar.config.differences import differences
from megachar.config.experiment import Experiment
from megachar.config.paths import with_absolute_paths
from megachar.config.sections.section import Role
from megachar.data.vocabulary import Unit
from megachar.runs.checkpoints.format import list_checkpoints
from megachar.runs.folder import run_folder
from megachar.training.early_stopping import is_finished


class State(str, Enum):
    """Of one run."""

    TO_DO = "to do"
    UNFINISHED = "unfinished"
    FINISHED = "finished"


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    state: State
    step: int = 0
    """Of its newest checkpoint."""
    validation_bits: float | None = None
    """Bits of the validation at that step, per character or whatever the unit is; None where there was none."""
    unit: Unit = "character"


def progress_of(experiment: Experiment) -> Progress:
    """How far the run of an experiment is.

    Raises:
        ConfigError: the run folder is of a run with other settings.
    """
    folder = run_folder(experiment)
    if not folder.experiment_file.exists():
        return Progress(State.TO_DO)
    # How and where a run is computed may change while a sweep is stopped.
    started, asked = with_absolute_paths(folder.load_experiment()), with_absolute_paths(experiment)
    for key, (before, now) in differences(started, asked, Role.NAMES, Role.COMPUTES).items():
        raise ConfigError(
            f"run {folder.path} was started with {key} = {before}, and the sweep now has {now}; set it back, or start "
            f"another sweep with name=ANOTHER"
        )
    checkpoints = list_checkpoints(folder)
    if not checkpoints:
        return Progress(State.UNFINISHED)
    newest, state = checkpoints[-1], State.FINISHED if is_finished(folder, experiment) else State.UNFINISHED
    return Progress(state, newest.step, newest.manifest.validation_bits, newest.manifest.unit)
