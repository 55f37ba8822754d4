"""What the runs of a ladder have come to, as a table that laws are fitted to. Imports no torch."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from megachar.base.errors import DataError
from megachar.base.files import atomic_write, read_regular, reason, shown
from megachar.runs.folder import RunFolder
from megachar.runs.outcome import read_outcome
from megachar.runs.sweep_folder import RunName
from megachar.scaling.ladder import LadderRun
from megachar.scaling.points import Points, Run, read_points
from megachar.training.early_stopping import is_finished

LADDER_FILE: Final = "ladder.json"
_MOST_BYTES: Final = 1 << 24


class Rung(BaseModel):
    """What the folder of a ladder says of one of its runs."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    trunk: str
    held_out: bool


class LadderRecord(BaseModel):
    """`ladder.json`."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    runs: dict[RunName, Rung]


def record_ladder(runs: Sequence[LadderRun]) -> Path:
    """Write which runs a ladder has into its folder, which is made; returns the folder. OSError where that fails."""
    folder = Path(runs[0].run.experiment.output)
    folder.mkdir(parents=True, exist_ok=True)
    record = LadderRecord(runs={run.name: Rung(trunk=run.trunk, held_out=run.held_out) for run in runs})
    with atomic_write(folder / LADDER_FILE) as part:
        part.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return folder


def read_table(source: Path) -> Points:
    """The runs of a ladder's folder that are finished, or of a CSV file.

    Raises:
        DataError: it cannot be read, a value is out of bounds, or no run is finished.
    """
    return points_of_ladder(source) if source.is_dir() else read_points(source)


def points_of_ladder(folder: Path) -> Points:
    """The finished runs of a ladder, in its order. Loss is that of the last validation, after the last step."""
    path = folder / LADDER_FILE
    try:
        record = LadderRecord.model_validate_json(read_regular(path, _MOST_BYTES))
    except OSError as error:
        raise DataError(f"{shown(path)}: {reason(error)}; name the folder of a ladder, or a CSV file") from error
    except ValidationError as error:
        raise DataError(f"{shown(path)} is damaged; `megachar scaling run` writes it again") from error
    found = (_point(RunFolder(folder / name), name, rung) for name, rung in record.runs.items())
    points = Points(tuple(point for point in found if point is not None))
    if not len(points):
        raise DataError(f"{shown(folder)}: no run of {len(record.runs)} is finished; see `megachar scaling run`")
    return points


def _point(folder: RunFolder, name: str, rung: Rung) -> Run | None:
    """A finished run with its loss; None for another one."""
    if not folder.experiment_file.is_file():
        return None
    experiment = folder.load_experiment()
    last = read_outcome(folder, experiment).validation
    if last is None or not is_finished(folder, experiment) or not math.isfinite(last["bits_per_character"]):
        return None
    model, characters = experiment.model, float(last["characters"])
    try:
        return Run(
            N=last["flops"] / (6 * characters), D=characters, loss=last["bits_per_character"], C=last["flops"],
            name=name, trunk=rung.trunk, seed=experiment.seed, held_out=rung.held_out, depth=model.num_layers,
            width=getattr(model, "width", None), rate=experiment.optimizer.learning_rate,
            batch=experiment.batch.global_size * model.window_length, unique=round(characters / last["epoch"]),
        )  # fmt: skip
    except (ValidationError, KeyError, TypeError, ZeroDivisionError) as error:
        raise DataError(f"{shown(folder.metrics_file)}: its last validation lacks what a table needs; train {name} "
                        f"again") from error  # fmt: skip
