"""What a run records: metrics.jsonl and TensorBoard, written by the main rank. Reading it imports no torch."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from megachar.errors import PlatformError
from megachar.files import json_text
from megachar.training.run_folder import RunFolder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from megachar.parallel.engine import LossSums

START = "start"
"""Kind of the record with which each process that trains begins."""
MEASURED = ("train", "validation")
"""Kinds of which a step has one record at most; the others are events."""


def layer_bits(losses: "LossSums") -> list[list[float | None]]:
    """Bits per character of every layer and target; None for a layer that was silent for some or all of the time.

    The mean over a part of the steps does not compare with the other layers' over all of them.
    """
    whole = losses.counts == losses.counts.max()
    bits = losses.nats / np.where(whole, losses.counts, np.nan)[:, None] / math.log(2)
    return [[round(float(value), 6) if math.isfinite(value) else None for value in row] for row in bits]


class MetricsWriter:
    """Appends records to metrics.jsonl and mirrors their numbers to TensorBoard."""

    def __init__(self, folder: RunFolder, step: int) -> None:
        """Go on after `step` steps: what was recorded of later ones, by a process that was killed, counts no more."""
        self._folder = folder
        self._file = folder.metrics_file.open("a+", encoding="utf-8")
        if _torn_end(folder):
            self._file.write("\n")  # after the line at which a run was killed
        self._board = self._open_board(step)
        self.write(START, step, {})

    def go_back(self, step: int) -> None:
        """The steps after `step` are taken back, and will be taken anew."""
        with self._naming_files():
            self._board.close()
            self._board = self._open_board(step)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Record `values` of `kind`, such as "train", after `step` steps; `PlatformError` where the disk is full."""
        with self._naming_files():
            self._file.write(json_text({"kind": kind, "step": step, **values}) + "\n")
            self._file.flush()
            self._mirror(kind, step, values)

    def _open_board(self, step: int) -> "SummaryWriter":
        """A file that makes TensorBoard forget what other files say of steps after `step`."""
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self._folder.tensorboard), purge_step=step + 1)

    def _mirror(self, kind: str, step: int, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"{kind}/{name}", value, step)
        for layer, targets in enumerate(values.get("layers", []), start=1):
            for target, value in enumerate(targets, start=1):
                if value is not None:
                    self._board.add_scalar(f"{kind}_layers/{layer:02d}_target{target}_bits", value, step)

    def close(self) -> None:
        """Flush and close both; `PlatformError` as from `write`."""
        with self._naming_files():
            self._file.close()
            self._board.close()

    @contextmanager
    def _naming_files(self) -> Iterator[None]:
        """A full disk as an error of ours."""
        try:
            yield
        except OSError as error:
            raise PlatformError(f"{self._file.name} or the TensorBoard files beside it cannot be written: "
                                f"{error.strerror}; free space, then go on with --resume") from error  # fmt: skip


def _torn_end(folder: RunFolder) -> bool:
    """Whether the file ends within a line."""
    data = folder.metrics_file.read_bytes()
    return bool(data) and not data.endswith(b"\n")


def read_metrics(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    """The records of one kind that count, those of `MEASURED` in order of their steps, events in that of their writing.

    What a killed process recorded of steps after the one from which the run was resumed does not count: they were
    taken again. Of steps that a rollback took back, events alone count: bad steps of one number are different ones.
    """
    records: list[dict[str, Any]] = []
    for record in _records(folder):
        last = record["step"] if record["kind"] == START else None
        if kind in MEASURED and record["kind"] == "guard":
            last = record.get("returned_to")
        if last is not None:
            records = [earlier for earlier in records if earlier["step"] <= last]
        if record["kind"] == kind:
            records.append(record)
    if kind not in MEASURED:
        return records
    by_step = {record["step"]: record for record in records}  # an older megachar recorded no starts
    return [by_step[step] for step in sorted(by_step)]


def _records(folder: RunFolder) -> Iterator[dict[str, Any]]:
    if not folder.metrics_file.is_file():
        return
    for line in folder.metrics_file.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # the last line of a run that was killed while writing
        if record.get("bits_per_character", 0) is None:
            record["bits_per_character"] = math.nan  # for which JSON has no word
        yield record


def validation_order(record: dict[str, Any]) -> float:
    """A key by which the best validation comes first, and one that is not a number last."""
    bits = float(record["bits_per_character"])
    return bits if math.isfinite(bits) else math.inf
