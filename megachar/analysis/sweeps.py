"""The runs of a sweep, as their records tell of them. Imports no torch."""

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from megachar.analysis.result import Subject, label_sources
from megachar.config.differences import settings_but
from megachar.config.experiment import Experiment
from megachar.config.sections.section import Role
from megachar.errors import DataError
from megachar.families.counting import count_parameters
from megachar.training.early_stopping import is_finished
from megachar.training.records import Record, read_records, validation_order
from megachar.training.run_folder import RunFolder


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


def find_runs(sources: Iterable[Path]) -> list[Path]:
    """The run folders that these folders, of runs and of sweeps, stand for, in order.

    DataError where one is neither.
    """
    found = []
    for source in sources:
        if RunFolder(source).experiment_file.is_file():
            found.append(source)
            continue
        inside = sorted(file.parent for file in source.glob(f"*/{RunFolder(source).experiment_file.name}"))
        if not inside:
            raise DataError(f"{source} is neither a run folder nor a folder of runs; name one such as runs/ablation")
        found += inside
    return found


def read_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """The records of some runs.

    Raises:
        ConfigError: one is given twice, or its settings cannot be read.
        DataError: one has no validation to compare it by.
    """
    return [_read_run(folder, label) for folder, label in zip(folders, label_sources(folders), strict=True)]


def group_by_seed(runs: Iterable[RunRecord]) -> list[Variant]:
    """Runs of the same settings but for the seed, in order of their first ones."""
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        kept = settings_but(run.experiment, Role.NAMES, Role.COMPUTES)
        kept.pop("seed")
        groups.setdefault(repr(sorted(kept.items())), []).append(run)
    return [Variant(tuple(group)) for group in groups.values()]


def unfinished(runs: Iterable[RunRecord]) -> str:
    """A sentence on those runs that are not at their end, to go behind another one; empty where all are."""
    names = [f"{run.subject.label} (step {run.subject.step:,})" for run in runs if not run.finished]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f" Not finished, so not to be compared yet: {', '.join(names[:3])}{more}." if names else ""


def _read_run(path: Path, label: str) -> RunRecord:
    folder = RunFolder(path)
    records = read_records(folder, ["train", "validation"])
    experiment, validation = folder.load_experiment(), records.of("validation")
    if not validation:
        raise DataError(
            f"{path} has no validation yet; train until training.validation_interval, on a corpus with a valid split"
        )
    best = min(validation, key=validation_order)
    subject = Subject(label, str(path.resolve()), int(validation[-1]["step"]))
    return RunRecord(
        subject,
        experiment,
        float(validation[-1]["bits_per_character"]),
        float(best["bits_per_character"]),
        int(best["step"]),
        _training_seconds(records.of("train"), experiment),
        subject.step >= experiment.training.total_steps or is_finished(folder, experiment),
        str(validation[-1].get("unit", "character")),
    )


def _training_seconds(train: list[Record], experiment: Experiment) -> float:
    """From the speed of every interval between two records, each of which counts steps alone."""
    seconds, before = 0.0, 0
    for record in train:
        characters = (record["step"] - before) * experiment.batch.global_size * experiment.model.window_length
        if record.get("characters_per_second") is not None:
            seconds += characters / record["characters_per_second"]
        before = record["step"]
    return seconds
