"""What a run has come to, from its records. Imports no torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from megachar.config.experiment import Experiment
from megachar.runs.folder import RunFolder
from megachar.runs.records import Record, read_records, validation_order


@dataclass(frozen=True)
class Outcome:
    """How far a run is, and the best that it reached."""

    step: int
    """Of the last record; 0 where there is none."""
    validation: Record | None
    """The last one."""
    best: Record | None
    """The validation with the lowest loss; None where none is a number."""
    characters: int
    """Read in training until `step`."""
    training_seconds: float
    """Of its steps alone: without validation, checkpoints and starts."""
    seconds: float
    """Until `step`, validation and checkpoints included; where the records do not tell, `training_seconds`."""
    remark: str | None
    """A sentence about damaged records; None where there are none."""


def read_outcome(folder: RunFolder, experiment: Experiment) -> Outcome:
    """The outcome of a run so far.

    Raises:
        DataError: its records cannot be read.
    """
    records = read_records(folder, ["train", "validation"])
    train, validation = records.of("train"), records.of("validation")
    last = max([*train[-1:], *validation[-1:]], key=lambda record: int(record["step"]), default={"step": 0})
    step, per_step = int(last["step"]), experiment.batch.global_size * experiment.model.window_length
    training_seconds = _training_seconds(train, per_step)
    return Outcome(
        step,
        validation[-1] if validation else None,
        min((record for record in validation if math.isfinite(record["bits_per_character"])), key=validation_order,
            default=None),
        int(_figure(last, "characters", step * per_step)),
        training_seconds,
        _figure(last, "seconds", training_seconds),
        records.remark(folder),
    )  # fmt: skip


def _figure(record: Record, name: str, otherwise: float) -> float:
    """A figure of a record that those of older versions do not have."""
    value = record.get(name)
    return value if isinstance(value, int | float) and math.isfinite(value) and value >= 0 else otherwise


def _training_seconds(train: Sequence[Record], per_step: int) -> float:
    """From the speed of every interval between two records, each of which counts steps alone."""
    seconds, before = 0.0, 0
    for record in train:
        if record.get("characters_per_second") is not None:
            seconds += (record["step"] - before) * per_step / record["characters_per_second"]
        before = record["step"]
    return seconds
