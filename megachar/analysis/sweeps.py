"""The runs of a sweep, as their records tell of them. Imports no torch."""

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from megachar.analysis.result import Subject, label_sources
from megachar.base.errors import DataError
from megachar.config.differences import settings_but
from megachar.config.experiment import Experiment
from megachar.config.sections.section import Role
from megachar.families.counting import count_parameters
from megachar.runs.folder import RunFolder
from megachar.runs.outcome import read_outcome
from megachar.runs.sweep_folder import find_runs, read_plan, say_not_begun
from megachar.training.early_stopping import is_finished

Sources = Annotated[list[Path], typer.Argument(help="The folder of a sweep, such as runs/ablation, or run folders.")]


@dataclass(frozen=True)
class RunRecord:
    """What one run has come to."""

    subject: Subject
    experiment: Experiment
    final_bits: float
    """Bits per character of the last validation."""
    best_bits: float
    """Of the best one."""
    best_step: int
    training_seconds: float
    """Of its steps alone: without validation, checkpoints and starts."""
    finished: bool
    """Whether its last validation was at the end of training."""
    unit: str = "character"
    """What its bits are of."""
    points: tuple[str, ...] = ()
    """Settings at each point of which its sweep trains every variant."""
    remark: str | None = None
    """On damaged records."""

    @property
    def parameters(self) -> int:
        """In training."""
        return sum(part.training for part in count_parameters(self.experiment.model, self.experiment.auxiliary))


@dataclass(frozen=True)
class Variant:
    """Runs that differ in their seeds alone."""

    runs: tuple[RunRecord, ...]

    @property
    def experiment(self) -> Experiment:
        """Of the first of them."""
        return self.runs[0].experiment

    @property
    def label(self) -> str:
        """Of the run; of several, their name without the seed, where that is the same."""
        if len(self.runs) == 1:
            return self.runs[0].subject.label
        names = {re.sub(r"-?\bseed-\d+", "", run.experiment.name) for run in self.runs}
        name = names.pop() if len(names) == 1 else ""
        return f"{name or self.runs[0].subject.label} ({len(self.runs)} seeds)"

    @property
    def final_bits(self) -> float:
        """Mean."""
        return statistics.fmean(run.final_bits for run in self.runs)

    @property
    def best_bits(self) -> float:
        """Mean of each one's best."""
        return statistics.fmean(run.best_bits for run in self.runs)

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the final bits over the seeds; None of a single run."""
        return statistics.stdev(run.final_bits for run in self.runs) if len(self.runs) > 1 else None

    @property
    def training_seconds(self) -> float:
        """Mean."""
        return statistics.fmean(run.training_seconds for run in self.runs)


def read_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """The records of those of some runs that have a validation to compare them by.

    Raises:
        ConfigError: one is given twice, or its settings cannot be read.
        DataError: none has a validation.
    """
    labels = label_sources(folders)
    found = [_read_run(folder, label) for folder, label in zip(folders, labels, strict=True)]
    runs = [run for run in found if run is not None]
    if not runs:
        names = f"{folders[0]} has" if len(folders) == 1 else f"the {len(folders)} runs have"
        raise DataError(
            f"{names} no validation yet; train until training.validation_interval, on a corpus with a valid split"
        )
    return runs


def group_by_seed(runs: Iterable[RunRecord]) -> list[Variant]:
    """Runs of the same settings but for the seed, in order of their first ones."""
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        kept = settings_but(run.experiment, Role.NAMES, Role.COMPUTES)
        kept.pop("seed")
        groups.setdefault(repr(sorted(kept.items())), []).append(run)
    return [Variant(tuple(group)) for group in groups.values()]


def caveats(runs: Sequence[RunRecord]) -> str:
    """Sentences on runs that are not at their end, and on damaged records, to go behind others; or nothing."""
    names = [f"{run.subject.label} (step {run.subject.step:,})" for run in runs if not run.finished]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    unfinished = f" Not finished, so not to be compared yet: {', '.join(names[:3])}{more}." if names else ""
    return unfinished + "".join(f" {run.remark}." for run in runs if run.remark is not None)


def _read_run(path: Path, label: str) -> RunRecord | None:
    folder = RunFolder(path)
    experiment = folder.load_experiment()
    outcome = read_outcome(folder, experiment)
    if outcome.validation is None:
        return None
    best = outcome.best or outcome.validation
    plan = read_plan(path.resolve().parent)
    subject = Subject(label, str(path.resolve()), int(outcome.validation["step"]))
    return RunRecord(
        subject, experiment, float(outcome.validation["bits_per_character"]), float(best["bits_per_character"]),
        int(best["step"]), outcome.training_seconds,
        finished=subject.step >= experiment.training.total_steps or is_finished(folder, experiment),
        unit=str(outcome.validation.get("unit", "character")),
        points=() if plan is None else tuple(plan.points), remark=outcome.remark,
    )  # fmt: skip


def read_given_runs(sources: Sequence[Path]) -> list[RunRecord]:
    """The runs that some folders stand for; those without a validation are left out, and said to be."""
    folders = find_runs(sources)
    for sentence in say_not_begun(sources):
        typer.echo(sentence, err=True)
    runs = read_runs(folders)
    read = {run.subject.path for run in runs}
    for folder in folders:
        if str(folder.resolve()) not in read:
            typer.echo(f"left out: {folder} has no validation yet", err=True)
    return runs
