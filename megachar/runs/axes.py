"""What curves of a run are drawn over. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from megachar.base.errors import DataError
from megachar.runs.records import Record

AxisName = Literal["step", "characters", "time", "flops"]
"""As `--x` takes it."""


@dataclass(frozen=True)
class Axis:
    """A figure of records that grows as training goes on."""

    key: str
    """Of the records."""
    label: str
    """With the unit."""

    def having(self, records: Sequence[Record]) -> list[Record]:
        """The records that have it: older megachars wrote but the step."""
        return [record for record in records if record.get(self.key) is not None]

    def places(self, records: Sequence[Record]) -> list[float]:
        """Of records that all have it."""
        return [record[self.key] for record in records]

    def place_of(self, step: float, records: Sequence[Record]) -> float:
        """Where a step lies, between records (at least one) that all have it."""
        if self.key == "step":
            return step
        return float(np.interp(step, [record["step"] for record in records], self.places(records)))


STEPS: Final = Axis("step", "step")
AXES: Final[dict[AxisName, Axis]] = {
    "step": STEPS,
    "characters": Axis("characters", "characters read"),
    "time": Axis("seconds", "seconds of training"),
    "flops": Axis("flops", "FLOPs"),
}


def without(source: str, axis: Axis) -> DataError:
    """The error where no record of a source has what an axis shows."""
    return DataError(f"{source}: no record says {axis.label}, as it was written by an earlier megachar; "
                     f"draw over steps, without --x")  # fmt: skip
