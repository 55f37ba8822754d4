"""The table of runs that scaling laws are fitted to: from a CSV file, or made in Python. Imports no torch."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from megachar.base.errors import DataError
from megachar.base.files import read_regular, reason, shown

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

MOST_BYTES: Final = 1 << 24
MOST_RUNS: Final = 10_000
REQUIRED: Final = ("N", "D", "loss")
OPERATIONS: Final = 6.0
"""Training operations per parameter and character: C = 6 N D."""

Amount = Annotated[float, Field(ge=1, le=1e30)]
Label = Annotated[str, Field(max_length=200)]


class Run(BaseModel):
    """One trained model. What is not known is None."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_strip_whitespace=True)

    N: Amount
    """Parameters: those in matrix products, which is C / (6 D)."""
    D: Amount
    """Characters trained on, repeated ones included."""
    loss: float = Field(ge=1e-9, le=1e4)
    """Of the validation split, per character, in bits or nats: the same unit for all runs."""
    C: Annotated[float, Field(gt=0, le=1e60)] | None = None
    """Operations of the training; None: 6 N D."""
    name: Label = ""
    trunk: Label = ""
    """Runs that share a trunk are one training up to where they branch off, and so share its luck."""
    seed: int | None = Field(None, ge=0, lt=1 << 64)
    held_out: bool = False
    """Kept from every fit, to be predicted."""
    depth: Amount | None = None
    """Layers."""
    width: Amount | None = None
    """Of the hidden state."""
    rate: Annotated[float, Field(gt=0, le=1e3)] | None = None
    """Highest learning rate."""
    batch: Amount | None = None
    """Characters per step."""
    unique: Amount | None = None
    """Distinct characters of the training text: with D > unique, it was passed more than once."""

    @property
    def compute(self) -> float:
        """Operations of the training."""
        return OPERATIONS * self.N * self.D if self.C is None else self.C


COLUMNS: Final = tuple(Run.model_fields)


@dataclass(frozen=True)
class Points:
    """A table of K runs; its columns are arrays (K,)."""

    runs: tuple[Run, ...]

    def __len__(self) -> int:
        return len(self.runs)

    def column(self, name: str) -> Floats:
        """A column of numbers, with NaN where one is not known; `compute` is C, or 6 N D."""
        values = [getattr(run, name) for run in self.runs]
        return np.array([np.nan if value is None else value for value in values], dtype=float)

    def logs(self, *names: str) -> Floats:
        """Natural logarithms (K, columns) of columns."""
        return np.log(np.stack([self.column(name) for name in names], axis=1))

    @property
    def log_losses(self) -> Floats:
        """Natural logarithms (K,)."""
        return np.log(self.column("loss"))

    def where(self, keep: Callable[[Run], bool]) -> "Points":
        """The runs for which `keep` is true, in the same order."""
        return Points(tuple(run for run in self.runs if keep(run)))

    @property
    def fitted(self) -> "Points":
        """The runs that laws are fitted to."""
        return self.where(lambda run: not run.held_out)

    @property
    def held_out(self) -> "Points":
        """The runs that are predicted."""
        return self.where(lambda run: run.held_out)


def best_settings(points: Points) -> Points:
    """Of runs that differ in nothing but learning rate or batch, the one with the lowest loss.

    Runs are alike in N, D, shape, seed, trunk, and distinct characters; runs without a rate and a batch are all kept.
    """
    best: dict[Any, Run] = {}
    for number, run in enumerate(points.runs):
        tuned = run.rate is not None or run.batch is not None
        key = (run.N, run.D, run.depth, run.width, run.seed, run.unique, run.held_out) if tuned else number
        if key not in best or run.loss < best[key].loss:
            best[key] = run
    return Points(tuple(best.values()))


def read_points(path: Path) -> Points:
    """The table in a CSV file, whose first line names the columns: N, D, loss, and any of the others of `Run`.

    An empty cell is a value that is not known.

    Raises:
        DataError: the file cannot be read, a column is missing, unknown, or there twice, or a value is out of bounds.
    """
    try:
        text = read_regular(path, MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{shown(path)}: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{shown(path)} is no text in UTF-8 (byte {error.start:,}); save it as CSV in UTF-8") from error
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise DataError(f"{shown(path)} is no CSV ({error}); save it as CSV with commas") from error
    if not rows:
        raise DataError(f"{shown(path)} is empty; its first line names the columns, such as {','.join(REQUIRED)}")
    names = [name.strip() for name in rows[0]]
    _check_names(path, names)
    runs = tuple(_read_run(path, line, names, row) for line, row in enumerate(rows[1:], start=2) if any(row))
    if not 1 <= len(runs) <= MOST_RUNS:
        raise DataError(f"{shown(path)} has {len(runs):,} runs; it has to have 1 to {MOST_RUNS:,}")
    return Points(runs)


def write_points(points: Points, file: Any) -> None:
    """Write the table as CSV into an open text file, for `read_points`: the columns of `Run` that hold anything."""
    defaults = {name: field.default for name, field in Run.model_fields.items()}
    kept = [name for name in COLUMNS
            if name in REQUIRED or any(getattr(run, name) != defaults[name] for run in points.runs)]  # fmt: skip
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(kept)
    writer.writerows([_cell(getattr(run, name)) for name in kept] for run in points.runs)


def group_names(runs: Sequence[Run]) -> list[str]:
    """What each run shares its luck with: its trunk, or where none is named its size, and its seed."""
    return [f"{run.trunk or f'N={run.N:g}'}/{'' if run.seed is None else run.seed}" for run in runs]


def _check_names(path: Path, names: Sequence[str]) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    missing = [name for name in REQUIRED if name not in names]
    unknown = [name for name in names if name not in COLUMNS]
    if twice:
        raise DataError(f"{shown(path)}: column {shown(twice[0])!r} is there twice; leave one out")
    if missing:
        raise DataError(f"{shown(path)}: no column {missing[0]}; the first line has to name {', '.join(REQUIRED)}")
    if unknown:
        raise DataError(f"{shown(path)}: unknown column {shown(unknown[0])!r}; leave it out, or take one of "
                        f"{', '.join(COLUMNS)}")  # fmt: skip


def _read_run(path: Path, line: int, names: Sequence[str], row: Sequence[str]) -> Run:
    if len(row) != len(names):
        raise DataError(f"{shown(path)}, line {line}: {len(row)} cells, but {len(names)} columns; make them as many")
    given = {name: cell for name, cell in zip(names, row, strict=True) if cell.strip()}
    try:
        return Run.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        value = f" = {shown(given[name])[:40]}" if name in given else ""
        raise DataError(f"{shown(path)}, line {line}: {name}{value}: {first['msg']}; mend it or leave the line out"
                        ) from error  # fmt: skip


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return int(value) if isinstance(value, bool) else repr(value) if isinstance(value, float) else value
