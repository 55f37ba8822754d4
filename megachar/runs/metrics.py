"""What a run records: metrics.jsonl and TensorBoard, written by the main rank. Reading it imports no torch."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from megachar.base.errors import PlatformError
from megachar.base.files import json_text
from megachar.runs.folder import RunFolder
from megachar.runs.records import START, Record, read_records

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from megachar.parallel.engine import LossSums


def layer_bits(losses: "LossSums") -> list[list[float | None]]:
    """Bits per character of every layer and target; None for a layer that was silent for some or all of the time.

    The mean over a part of the steps does not compare with the other layers' over all of them.
    """
    whole = losses.counts == losses.counts.max()
    bits = losses.nats / np.where(whole, losses.counts, np.nan)[:, None] / math.log(2)
    return [[round(float(value), 6) if math.isfinite(value) else None for value in row] for row in bits]


_AMOUNTS: Final = ("seconds", "characters", "flops")
"""Straight lines over steps, or nearly so: no curves for TensorBoard."""


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
            if isinstance(value, int | float) and name not in _AMOUNTS:
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
                                f"{error.strerror}; free space, then continue with --resume") from error  # fmt: skip


def _torn_end(folder: RunFolder) -> bool:
    """Whether the file ends within a line."""
    data = folder.metrics_file.read_bytes()
    return bool(data) and not data.endswith(b"\n")


def read_metrics(folder: RunFolder, kind: str) -> list[Record]:
    """The records of one kind that count, as `read_records` gives them."""
    return read_records(folder, [kind]).of(kind)
