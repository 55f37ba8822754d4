"""All that a report shows of a run without its model. What cannot be read becomes a note: the rest is shown."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from megachar.analysis.result import FOLDER, SavedAnalysis, label_sources, read_analysis
from megachar.base.errors import MegacharError
from megachar.base.files import read_regular
from megachar.base.strict_json import parse_object
from megachar.config.experiment import Experiment
from megachar.evaluation.result import MOST_BYTES, read_evaluation
from megachar.families.counting import count_parameters, describe_model
from megachar.report.setting_rows import Settings, flatten, flatten_json
from megachar.runs.checkpoints.format import Checkpoint, checkpoint_folders, read_checkpoint
from megachar.runs.folder import RunFolder, starts_of
from megachar.runs.records import Record, read_records, validation_order

T = TypeVar("T")

KINDS: Final = ("train", "validation", "guard")
"""Of records."""


@dataclass(frozen=True)
class RunContents:
    """What a run folder holds."""

    label: str
    """Tells the run from the others of the report."""
    folder: RunFolder
    experiment: Experiment
    settings: Settings
    """Of the experiment, of DeepSpeed's JSON and of the packages' versions."""
    train: list[Record]
    validation: list[Record]
    guard: list[Record]
    """Bad steps."""
    evaluations: list[Record]
    checkpoints: list[Checkpoint]
    """Oldest first."""
    analyses: list[SavedAnalysis]
    notes: list[str]
    """What could not be read, and why."""

    @property
    def model(self) -> str:
        """The model in a few words."""
        model = self.experiment.model
        carries = model.context_limit is None
        length = f"segments of {model.window_length:,}" if carries else f"context {model.window_length:,}"
        return f"{model.family}, {describe_model(model)}, {length}"

    @property
    def num_parameters(self) -> int:
        """In training."""
        parts = count_parameters(self.experiment.model, self.experiment.auxiliary)
        return sum(part.training for part in parts)

    @property
    def step(self) -> int:
        """Steps on record."""
        return max((records[-1]["step"] for records in (self.train, self.validation) if records), default=0)

    @property
    def best_validation(self) -> Record | None:
        """The record of the lowest validation loss."""
        return min(self.validation, key=validation_order, default=None)

    @property
    def characters_per_second(self) -> float | None:
        """The median of the training records."""
        known = [speed for record in self.train if (speed := record.get("characters_per_second")) is not None]
        return statistics.median(known) if known else None


def read_runs(paths: Sequence[Path]) -> list[RunContents]:
    """The contents of run folders; ConfigError where one is none, is given twice, or has no valid experiment."""
    return [_read_run(path, label) for path, label in zip(paths, label_sources(paths), strict=True)]


def _read_run(path: Path, label: str) -> RunContents:
    folder, notes = RunFolder(path), list[str]()
    experiment = folder.load_experiment()
    settings = flatten(experiment)
    if (path / "deepspeed.json").is_file():
        settings |= flatten_json(_read_object(path / "deepspeed.json", notes), "DeepSpeed: ")
    if folder.versions_file.is_file():
        for start in starts_of(_read_object(folder.versions_file, notes))[-1:]:
            settings |= flatten_json({name: start[name] for name in start if name != "from_step"}, "version: ")
    records = read_records(folder, KINDS, thinned=True)
    train, validation, guard = (records.of(kind) for kind in KINDS)
    if (remark := records.remark(folder)) is not None:
        notes.append(remark)
    if not train:
        notes.append(f"{folder.metrics_file} holds no training record yet")
    evaluations = _readable(sorted(path.glob("evaluation-*.json")), _read_evaluation, notes)
    checkpoints = _readable(checkpoint_folders(folder), read_checkpoint, notes)
    analyses = _readable(sorted((path / FOLDER).glob("*.json")), read_analysis, notes)
    return RunContents(label, folder, experiment, settings, train, validation, guard, evaluations, checkpoints,
                       analyses, notes)  # fmt: skip


def _read_evaluation(file: Path) -> Record:
    return {**read_evaluation(file), "file": file.name}


def _readable(paths: Iterable[Path], read: Callable[[Path], T], notes: list[str]) -> list[T]:
    """What is read of those that can be; of each other one, a note."""
    found = []
    for path in paths:
        try:
            found.append(read(path))
        except MegacharError as error:
            notes.append(str(error))
    return found


def _read_object(path: Path, notes: list[str]) -> Record:
    """The JSON object in a file; empty, with a note, where there is none."""
    try:
        return parse_object(read_regular(path, MOST_BYTES))
    except (OSError, ValueError) as error:
        notes.append(f"{path} cannot be read: {error.strerror if isinstance(error, OSError) else error}")
        return {}
