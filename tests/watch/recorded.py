"""Failures as they stand in a run folder."""

from pathlib import Path

from pydantic import TypeAdapter

from megachar.watch.failure import Failure

_FAILURE = TypeAdapter(Failure)


def read_failures(folder: Path) -> list[Failure]:
    """The recorded failures of a run, oldest first."""
    return [_FAILURE.validate_json(path.read_bytes()) for path in sorted(folder.glob("[!.]*.json"))]
