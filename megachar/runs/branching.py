"""A run that goes on from where a shorter one cooled down, as if it had taken all steps itself. Imports no torch."""

import os
import secrets
import shutil
from pathlib import Path

from megachar.base.errors import CheckpointError, ConfigError
from megachar.base.files import json_text
from megachar.config.differences import differences
from megachar.config.experiment import Experiment
from megachar.config.loading import save_experiment
from megachar.config.sections.section import Role
from megachar.optimizers.schedules import trunk_end
from megachar.runs.checkpoints.format import find_checkpoint
from megachar.runs.folder import RunFolder, run_folder
from megachar.runs.records import MEASURED, read_records

BRANCH_FILE = "branch.json"
"""In the folder of a branch: the run that its first steps are from, and how many they are."""


def why_not_shared(experiment: Experiment) -> str | None:
    """Why a run has no trunk that longer ones could share; None where it has one."""
    auxiliary = experiment.auxiliary
    if experiment.schedule.shape != "wsd":
        return f"rates of schedule.shape={experiment.schedule.shape} depend on the length; take wsd"
    if auxiliary.intermediate_layers and auxiliary.interval_steps is None:
        return "when layers fall silent depends on the length; set auxiliary.interval_steps"
    return None


def begin_branch(source: Experiment, target: Experiment) -> int:
    """Make the folder of a run from the trunk of a shorter one; the number of steps that it holds.

    The runs must differ in nothing but their length and place. The checkpoint is linked where the disk allows it,
    else copied, and the records of training up to there are too. Nothing is left of a branch that was not finished.

    Raises:
        ConfigError: the runs share no trunk or differ in more than their length, or the target is there already.
        CheckpointError: the source has no whole checkpoint of that step.
        OSError: the folder cannot be written.
    """
    step = trunk_end(source.schedule, source.training.total_steps)
    reason = why_not_shared(target)
    if step is None or reason is not None:
        raise ConfigError(f"run {target.name} cannot begin as {source.name} did: {reason}")
    _check_alike(source, target, step)
    shorter, longer = run_folder(source), run_folder(target)
    if longer.path.exists():
        raise ConfigError(f"run {longer.path} is there already; resume it, or set name=ANOTHER")
    checkpoint = find_checkpoint(shorter, step)
    problems = checkpoint.problems()
    if problems:
        raise CheckpointError(f"{problems[0]}; train {shorter.path} again, or {longer.path} from its first step")
    part = RunFolder(longer.path.parent / f".{longer.path.name}.{secrets.token_hex(4)}.part")
    try:
        part.checkpoints.mkdir(parents=True)
        shutil.copytree(checkpoint.path, part.checkpoints / checkpoint.path.name, copy_function=_link)
        records = read_records(shorter, MEASURED)
        early = [record for kind in MEASURED for record in records.of(kind) if record["step"] <= step]
        lines = (json_text(record) for record in sorted(early, key=lambda record: int(record["step"])))
        part.metrics_file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        came_from = json_text({"run": str(shorter.path.absolute()), "steps": step}, indent=1)
        (part.path / BRANCH_FILE).write_text(f"{came_from}\n", encoding="utf-8")
        save_experiment(target, part.experiment_file)
        part.path.rename(longer.path)
    except BaseException:
        shutil.rmtree(part.path, ignore_errors=True)
        raise
    return step


def _check_alike(source: Experiment, target: Experiment, step: int) -> None:
    """See that the target would take the first steps as the source did."""
    changed = differences(source, target, Role.NAMES, Role.COMPUTES)
    changed.pop("training.total_steps", None)
    for key, (before, now) in changed.items():
        raise ConfigError(f"run {target.name} cannot begin as {source.name} did: {key} is {now} and was {before}; set "
                          f"it back, or train {target.name} from its first step")  # fmt: skip
    end = trunk_end(target.schedule, target.training.total_steps)
    if end is None or end < step:
        raise ConfigError(f"run {target.name} cools down after {end} steps and cannot begin with {step} of "
                          f"{source.name}; begin the longer run from the shorter one")  # fmt: skip


def _link(source: str, target: str) -> None:
    """Checkpoints are never written to again, so that two runs may hold the same."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, Path(target))
