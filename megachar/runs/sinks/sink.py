"""What takes the records of a run. Imports no torch.

A sink is one file of this folder: a class under `Sink`, which the main rank of every run makes and writes to.
"""

from typing import Any

from megachar.runs.folder import RunFolder


class Sink:
    """Takes records. An OSError is what it raises where the disk is full or its other end is gone."""

    def __init__(self, folder: RunFolder, step: int) -> None:
        """Go on after `step` steps: what was recorded of later ones, by a process that was killed, counts no more."""
        raise NotImplementedError

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Take a record of `kind`, such as "train", after `step` steps. Values are of JSON's types."""
        raise NotImplementedError

    def go_back(self, step: int) -> None:
        """The steps after `step` are taken back, and will be taken anew."""

    def close(self) -> None:
        """Write what is not written yet, and end."""
        raise NotImplementedError
