"""What a run records, written by the main rank. Reading it imports no torch."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from megachar.base.discovery import classes_in, modules_in
from megachar.base.errors import PlatformError
from megachar.runs.folder import RunFolder
from megachar.runs.records import Record, read_records
from megachar.runs.sinks.sink import Sink

if TYPE_CHECKING:
    from megachar.parallel.engine import LossSums


def layer_bits(losses: "LossSums") -> list[list[float | None]]:
    """Bits per character of every layer and target; None for a layer that was silent for some or all of the time.

    The mean over a part of the steps does not compare with the other layers' over all of them.
    """
    whole = losses.counts == losses.counts.max()
    bits = losses.nats / np.where(whole, losses.counts, np.nan)[:, None] / math.log(2)
    return [[round(float(value), 6) if math.isfinite(value) else None for value in row] for row in bits]


class MetricsWriter:
    """Hands records to every sink of `runs/sinks/`."""

    def __init__(self, folder: RunFolder, step: int) -> None:
        """Go on after `step` steps; see `Sink`."""
        self._folder = folder
        with self._naming_files():
            self._sinks = [sink(folder, step) for sink in classes_in(modules_in("megachar.runs.sinks"), Sink)]

    def go_back(self, step: int) -> None:
        """The steps after `step` are taken back, and will be taken anew; `PlatformError` as from `write`."""
        with self._naming_files():
            for sink in self._sinks:
                sink.go_back(step)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Record `values` of `kind`, such as "train", after `step` steps; `PlatformError` where the disk is full."""
        with self._naming_files():
            for sink in self._sinks:
                sink.write(kind, step, values)

    def close(self) -> None:
        """Write what is not written yet; `PlatformError` as from `write`."""
        with self._naming_files():
            for sink in self._sinks:
                sink.close()

    @contextmanager
    def _naming_files(self) -> Iterator[None]:
        """A full disk as an error of ours."""
        try:
            yield
        except OSError as error:
            raise PlatformError(f"the records of {self._folder.path} cannot be written: {error.strerror}; free space, "
                                f"then continue with --resume") from error  # fmt: skip


def read_metrics(folder: RunFolder, kind: str) -> list[Record]:
    """The records of one kind that count, as `read_records` gives them."""
    return read_records(folder, [kind]).of(kind)
