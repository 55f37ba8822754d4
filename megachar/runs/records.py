"""Reading of metrics.jsonl, which may be of any length, damaged or somebody else's. Imports no torch."""

import json
import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from megachar.base.errors import DataError
from megachar.base.files import open_regular
from megachar.runs.checkpoints.contents import finite_or_none
from megachar.runs.folder import RunFolder

Record = dict[str, Any]
"""A line of metrics.jsonl."""
START: Final = "start"
"""Kind of the record with which each process that trains begins."""
MEASURED: Final = ("train", "validation")
"""Kinds of which a step has one record at most; the others are events."""
_MOST_LINE_BYTES: Final = 1 << 22
_MOST_STRETCHES: Final = 1024
_MOST_EVENTS: Final = 4096
_NAMES_OF_EXTREMES: Final = ("bits_per_character", "gradient_norm", "characters_per_second")

_Number = Annotated[float, Field(ge=-1e30, le=1e30)]
_Bits = Annotated[float, Field(ge=0, le=1e6)]


def _nan_of_none(value: float | None) -> float:
    """NaN, for which JSON has no word."""
    return math.nan if value is None else value


_Measured = Annotated[_Bits | None, BeforeValidator(finite_or_none), AfterValidator(_nan_of_none)]
_Optional = Annotated[_Number | None, BeforeValidator(finite_or_none)]
_Amount = Annotated[float, Field(ge=0, le=1e40)] | None


class _Line(BaseModel):
    """What every record has; what else it holds is kept."""

    model_config = ConfigDict(extra="allow", strict=True)

    kind: str = Field(max_length=100)
    step: int = Field(ge=0, le=1 << 53)


class _Losses(_Line):
    """Of training or of a validation. A loss that is not finite is NaN, and any other such number none."""

    bits_per_character: _Measured
    unit: str = Field(default="character", max_length=100)
    layers: list[list[Annotated[_Bits | None, BeforeValidator(finite_or_none)]]] = []
    learning_rate: _Optional = None
    gradient_norm: _Optional = None
    characters_per_second: Annotated[float, Field(gt=0, le=1e30)] | None = None
    seconds: _Amount = None
    characters: _Amount = None
    epoch: _Amount = None
    flops: _Amount = None


class _BadStep(_Line):
    """Of the guard."""

    reason: str = ""
    action: str = ""
    returned_to: int | None = Field(default=None, ge=0, le=1 << 53)


_MODELS: Final[dict[str, type[_Line]]] = {"train": _Losses, "validation": _Losses, "guard": _BadStep}


@dataclass(frozen=True)
class Records:
    """What metrics.jsonl holds of some kinds."""

    by_kind: dict[str, list[Record]]
    """Those of `MEASURED` in the order of their steps, events in that of their writing."""
    num_damaged: int
    """Lines that are no records, and records whose layers are not as many as those of most others."""

    def of(self, kind: str) -> list[Record]:
        """The records of one kind."""
        return self.by_kind[kind]

    def remark(self, folder: RunFolder) -> str | None:
        """A sentence about what was left out; None where nothing was."""
        if not self.num_damaged:
            return None
        lines = "1 line is" if self.num_damaged == 1 else f"{self.num_damaged:,} lines are"
        return f"{folder.metrics_file}: {lines} damaged or cut off and left out"


def read_records(folder: RunFolder, kinds: Sequence[str], thinned: bool = False) -> Records:
    """The records of some kinds that count.

    What a killed process recorded of steps after the one from which the run was resumed does not count: they were
    taken again. Of steps that a rollback took back, events alone count: bad steps of one number are different ones.

    Args:
        folder: the run's; without the file there are no records.
        kinds: such as "train".
        thinned: keep no more than some thousand of each kind: the newest, and of what was measured also the extremes of
            every stretch.

    Raises:
        DataError: the file cannot be read.
    """
    kept: dict[str, _Measurements | _Events] = {
        kind: _Measurements(thinned) if kind in MEASURED else _Events(thinned) for kind in kinds
    }
    num_damaged = 0
    for line in _lines(folder):
        record = _parsed(line)
        if record is None:
            num_damaged += 1
            continue
        for kind, records in kept.items():
            last = _last_that_counts(record, kind)
            if last is not None:
                records.drop_after(last)
        if record["kind"] in kept:
            kept[record["kind"]].add(record)
    by_kind = {}
    for kind, records in kept.items():
        by_kind[kind], left_out = _of_one_shape(records.records())
        num_damaged += left_out
    return Records(by_kind, num_damaged)


def _last_that_counts(record: Record, kind: str) -> int | None:
    """The last step of which earlier records of a kind count still, after this one; None: they all do."""
    if record["kind"] == START:
        return int(record["step"])
    return record.get("returned_to") if record["kind"] == "guard" and kind in MEASURED else None


def validation_order(record: Record) -> float:
    """A key by which the best validation comes first, and one that is not a number last."""
    bits = float(record["bits_per_character"])
    return bits if math.isfinite(bits) else math.inf


def _lines(folder: RunFolder) -> Iterator[bytes]:
    """The lines that are not empty; of one that is too long to be a record, only its start."""
    if not folder.metrics_file.is_file():
        return
    try:
        with open_regular(folder.metrics_file) as file:
            while line := file.readline(_MOST_LINE_BYTES):
                if len(line) == _MOST_LINE_BYTES:
                    _pass_over_line(file)
                if line.strip():
                    yield line
    except OSError as error:
        raise DataError(f"{folder.metrics_file} cannot be read: {error.strerror}; mend that and try again") from error


def _pass_over_line(file: BinaryIO) -> None:
    while (more := file.readline(_MOST_LINE_BYTES)) and not more.endswith(b"\n"):
        pass


def _parsed(line: bytes) -> Record | None:
    """The record in a line; None where it holds none, as where a run was killed while it wrote."""
    try:
        values = json.loads(line)
        kind = values.get("kind") if isinstance(values, dict) else None
        found = (_MODELS.get(kind, _Line) if isinstance(kind, str) else _Line).model_validate(values)
    except (ValueError, RecursionError):  # those of pydantic are ValueErrors
        return None
    return {name: getattr(found, name) for name in values}


class _Events:
    """The records of one kind, as they were written; with `thinned`, the newest."""

    def __init__(self, thinned: bool) -> None:
        self._most = _MOST_EVENTS if thinned else None
        self._records = deque[Record](maxlen=self._most)

    def add(self, record: Record) -> None:
        """One more."""
        self._records.append(record)

    def drop_after(self, step: int) -> None:
        """Forget those of steps after `step`."""
        self._records = deque((record for record in self._records if record["step"] <= step), self._most)

    def records(self) -> list[Record]:
        """All, in order."""
        return list(self._records)


class _Measurements:
    """The records of one kind, one of each step; with `thinned`, by stretches of steps that widen as there are more."""

    def __init__(self, thinned: bool) -> None:
        self._thinned, self._width = thinned, 1
        self._stretches: dict[int, dict[int, Record]] = {}

    def add(self, record: Record) -> None:
        """One more, in the place of one of the same step."""
        stretch = self._stretches.setdefault(record["step"] // self._width, {})
        stretch[record["step"]] = record
        if not self._thinned:
            return
        if len(stretch) > 2 * len(_NAMES_OF_EXTREMES) + 1:
            self._stretches[record["step"] // self._width] = _extremes(stretch)
        while len(self._stretches) > _MOST_STRETCHES:
            self._widen()

    def drop_after(self, step: int) -> None:
        """Forget those of steps after `step`."""
        for place in [place for place in self._stretches if place >= step // self._width]:
            kept = {at: record for at, record in self._stretches.pop(place).items() if at <= step}
            if kept:
                self._stretches[place] = kept

    def records(self) -> list[Record]:
        """All, in the order of their steps."""
        found = {step: record for stretch in self._stretches.values() for step, record in stretch.items()}
        return [found[step] for step in sorted(found)]

    def _widen(self) -> None:
        before, self._stretches, self._width = self._stretches, {}, 2 * self._width
        for stretch in before.values():
            for step, record in stretch.items():
                self._stretches.setdefault(step // self._width, {})[step] = record
        self._stretches = {place: _extremes(stretch) for place, stretch in self._stretches.items()}


def _extremes(stretch: dict[int, Record]) -> dict[int, Record]:
    """The last of some records, and those with the lowest and the highest of each figure."""
    chosen = {max(stretch)}
    for name in _NAMES_OF_EXTREMES:
        known = {step: record[name] for step, record in stretch.items() if _is_known(record.get(name))}
        if known:
            chosen |= {min(known, key=known.__getitem__), max(known, key=known.__getitem__)}
    return {step: stretch[step] for step in chosen}


def _is_known(figure: float | None) -> bool:
    return figure is not None and math.isfinite(figure)


def _of_one_shape(records: Iterable[Record]) -> tuple[list[Record], int]:
    """The records that have as many layers and targets as most, and how many have others."""
    shapes = [(_shape(record), record) for record in records]
    if not shapes:
        return [], 0
    usual, _ = Counter(shape for shape, _ in shapes).most_common(1)[0]
    kept = [record for shape, record in shapes if shape == usual]
    return kept, len(shapes) - len(kept)


def _shape(record: Record) -> tuple[int, ...]:
    """Targets of each layer."""
    return tuple(len(row) for row in record.get("layers", ()))
