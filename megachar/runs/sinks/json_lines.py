"""metrics.jsonl: every record, a line each. It is what all commands read (`runs.records`)."""

from typing import Any

from megachar.base.files import json_text
from megachar.runs.folder import RunFolder
from megachar.runs.records import START
from megachar.runs.sinks.sink import Sink


class JsonLines(Sink):
    """Appends to the file."""

    def __init__(self, folder: RunFolder, step: int) -> None:
        """See `Sink`."""
        self._file = folder.metrics_file.open("a+", encoding="utf-8")
        if _torn_end(folder):
            self._file.write("\n")  # after the line at which a run was killed
        self.write(START, step, {})

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """See `Sink`."""
        self._file.write(json_text({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """See `Sink`."""
        self._file.close()


def _torn_end(folder: RunFolder) -> bool:
    """Whether the file ends within a line."""
    data = folder.metrics_file.read_bytes()
    return bool(data) and not data.endswith(b"\n")
