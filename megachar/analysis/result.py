"""What an analysis found, and its files: numbers (CSV), a picture (PNG), what both mean (JSON). Imports no torch."""

import csv
import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from megachar.base import mpl
from megachar.base.errors import ConfigError, DataError
from megachar.base.files import read_regular, shown
from megachar.base.pictures import PictureFormat, save
from megachar.base.strict_json import parse_object
from megachar.evaluation.result import MOST_BYTES, replace_file, write_json
from megachar.runs.checkpoints.sources import is_checkpoint, result_path, run_around

Cell = str | int | float | None
FOLDER = "analyses"
"""Of the first run, where results go unless told otherwise."""
_MAX_LABEL = 60  # characters of a file name that go to the runs' names
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    """With the unit, such as `loss (bits)`."""
    format: str = ""
    """Of its numbers when they are shown: a format specification such as `.3f`."""


@dataclass(frozen=True)
class Table:
    """Numbers and words; None is shown as a dash, and in CSV as nothing."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def texts(self) -> list[list[str]]:
        """The rows as they are shown."""
        return [[_shown(cell, column) for cell, column in zip(row, self.columns, strict=True)] for row in self.rows]


@dataclass(frozen=True)
class Subject:
    """A model that an analysis is about."""

    label: str
    """Tells it from the other models in tables and pictures."""
    path: str
    """Whole path of the run folder, the checkpoint's folder or the exported file."""
    step: int
    """Of the checkpoint, or of the last record where only records were read."""


@dataclass(frozen=True)
class Analysis:
    """A result, not saved yet."""

    name: str
    """Of the analysis, such as `context`: its command."""
    title: str
    subjects: tuple[Subject, ...]
    table: Table
    """What is shown; short."""
    figure: "mpl.figure.Figure"
    how_to_read: str
    """One line."""
    split: str = ""
    """Of the corpus; empty where the text is another, or there is none."""
    settings: dict[str, Any] = field(default_factory=dict)
    """All else that the numbers depend on, as plain values."""
    details: Table | None = None
    """What goes to the CSV where it is more than `table`."""

    @property
    def file_stem(self) -> str:
        """`<name>-<runs>-<split>-<6 digits of what else it depends on>`, so that only the same analysis replaces it."""
        labels = "+".join(_file_safe(subject.label) for subject in self.subjects)
        if len(labels) > _MAX_LABEL:
            labels = f"{labels[:_MAX_LABEL]}...{len(self.subjects)}"
        subjects = [[subject.path, subject.step] for subject in self.subjects]
        depends = json.dumps([subjects, self.split, self.settings], sort_keys=True)
        digest = hashlib.sha256(depends.encode()).hexdigest()[:6]
        return "-".join(part for part in (self.name, labels, self.split, digest) if part)

    def save(self, folder: Path, picture_format: PictureFormat = "png") -> "SavedAnalysis":
        """Write CSV, PNG and JSON into `folder`, the JSON last: where it is, the others are whole.

        A picture of another format lies beside the PNG, which reports show. ConfigError where they cannot be written.
        """
        stem = folder / self.file_stem
        saved = SavedAnalysis(self.name, self.title, self.subjects, self.table, self.how_to_read, self.split,
                              self.settings, _with_ending(stem, "csv"), _with_ending(stem, "png"))  # fmt: skip
        replace_file(saved.csv, self._write_csv)
        formats: dict[PictureFormat, None] = dict.fromkeys(("png", picture_format))
        for one in formats:
            replace_file(_with_ending(stem, one), partial(save, self.figure, picture_format=one))
        write_json(saved.json, saved.as_dict())
        return saved

    def _write_csv(self, path: Path) -> None:
        table = self.details or self.table
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([column.name for column in table.columns])
            writer.writerows(table.rows)


@dataclass(frozen=True)
class SavedAnalysis:
    """A result on the disk: what a report shows."""

    name: str
    title: str
    subjects: tuple[Subject, ...]
    table: Table
    how_to_read: str
    split: str
    settings: dict[str, Any]
    csv: Path
    figure: Path

    @property
    def json(self) -> Path:
        """The file that describes the other two, which lie beside it."""
        return self.csv.with_suffix(".json")

    def as_dict(self) -> dict[str, Any]:
        """What the JSON holds."""
        return {
            "analysis": self.name,
            "title": self.title,
            "how_to_read": self.how_to_read,
            "runs": [asdict(subject) for subject in self.subjects],
            "split": self.split,
            "settings": self.settings,
            "columns": [asdict(column) for column in self.table.columns],
            "rows": [list(row) for row in self.table.rows],
            "csv": self.csv.name,
            "figure": self.figure.name,
        }


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _StoredColumn(_Stored):
    name: str
    format: str = Field(pattern=r"^[-+]?,?(\.\d{1,2})?[efg%]?$")


class _StoredSubject(_Stored):
    label: str
    path: str
    step: int = Field(ge=0, le=1 << 62)


class _StoredAnalysis(BaseModel):
    """What the JSON of a result holds."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    analysis: str
    title: str
    how_to_read: str
    runs: list[_StoredSubject]
    split: str
    settings: dict[str, Any]
    columns: list[_StoredColumn] = Field(min_length=1)
    rows: list[list[str | int | float | None]]
    csv: str = Field(pattern=r"^[^/\x00]+\.csv$")
    figure: str = Field(pattern=r"^[^/\x00]+\.png$")


def read_analysis(path: Path) -> SavedAnalysis:
    """The result that a JSON file describes; DataError where it is none, or its CSV or PNG is not beside it."""
    try:
        stored = _StoredAnalysis.model_validate(parse_object(read_regular(path, MOST_BYTES)))
        columns = tuple(Column(column.name, column.format) for column in stored.columns)
        table = Table(columns, tuple(tuple(row) for row in stored.rows))
        table.texts()  # each row has a cell of every column, and each number can be shown
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise DataError(f"{path} is no result of an analysis ({where}: {error.errors()[0]['msg']}); run it again"
                        ) from error  # fmt: skip
    except (OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path} is no result of an analysis ({error}); run it again") from error
    subjects = tuple(Subject(run.label, run.path, run.step) for run in stored.runs)
    saved = SavedAnalysis(stored.analysis, stored.title, subjects, table, stored.how_to_read, stored.split,
                          stored.settings, path.with_name(stored.csv), path.with_name(stored.figure))  # fmt: skip
    for file in (saved.csv, saved.figure):
        if not file.is_file():
            raise DataError(f"{path} names {shown(file.name)}, which is not beside it; run the analysis again")
    read_picture(saved.figure)
    return saved


def read_picture(path: Path) -> bytes:
    """The content of a PNG; DataError where there is none, or the name is that of a link or of something else."""
    try:
        data = read_regular(path, MOST_BYTES, links=False)
    except OSError as error:
        raise DataError(f"{shown(path)} cannot be read: {error.strerror}; run the analysis again") from error
    if not (data.startswith(_PNG_START) and data.endswith(_PNG_END)):
        raise DataError(f"{shown(path)} is no PNG, or is cut off; run the analysis again")
    return data


def result_folder(source: Path, output: Path | None) -> Path:
    """Make the folder for results about `source` and others: `output`, or `analyses` in the run's, or beside a file.

    ConfigError where it cannot be made or written.
    """
    folder = output or result_path(source, FOLDER)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{secrets.token_hex(4)}.tmp"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"results cannot be written to {folder}: {error.strerror}; name a writable folder with --output"
        ) from error
    return folder


def label_sources(sources: Sequence[Path]) -> list[str]:
    """Names that tell run folders, checkpoints and exported files from each other, as short as can be.

    ConfigError where one is given twice.
    """
    parts = [_label_parts(source) for source in sources]
    for i, source in enumerate(sources):
        if parts[i] in parts[:i]:
            raise ConfigError(f"{source} is given twice; name each run once")
    labels = []
    for own in parts:
        others = [other for other in parts if other != own]
        shared = max((_shared_end(own, other) for other in others), default=0)
        labels.append(shown("/".join(own[-shared - 1 :])))
    return labels


def _label_parts(source: Path) -> tuple[str, ...]:
    """Of the whole path; of a checkpoint of a run, the run's name and the checkpoint's are one part."""
    path = source.resolve()
    around = run_around(path) if is_checkpoint(path) else None
    if around is not None:
        step = path.name.removeprefix("step-").lstrip("0") or "0"
        return (*around.path.parts[1:-1], f"{around.path.name}@{step}")
    return (*path.parts[1:-1], path.stem if path.is_file() else path.name)


def _shared_end(one: Sequence[str], other: Sequence[str]) -> int:
    """How many of the last parts are the same."""
    ends = zip(reversed(one), reversed(other), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], ends)))


def _shown(cell: Cell, column: Column) -> str:
    if cell is None:
        return "-"
    return cell if isinstance(cell, str) else format(cell, column.format)


def _file_safe(label: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in label)


def _with_ending(stem: Path, ending: str) -> Path:
    return stem.with_name(f"{stem.name}.{ending}")
