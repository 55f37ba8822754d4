"""Notices when files that a run reads are changed under it: memory maps give no sign of that."""

from collections.abc import Iterable
from pathlib import Path

from megachar.base.errors import DataError


class FileWatch:
    """Remembers which files were opened, without reading them."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._opened = {path: _identity(path) for path in paths}

    def check(self) -> None:
        """`DataError` where one was replaced, written to or removed since."""
        for path, opened in self._opened.items():
            if _identity(path) != opened:
                raise DataError(
                    f"{path} is no longer the file that was opened: it was replaced, written to or removed. Put it "
                    f"back, see that it is right (megachar corpus inspect {path.parent} --verify), and continue with "
                    f"--resume"
                )


def _identity(path: Path) -> tuple[int, ...] | None:
    """What changes when the file is replaced or written to; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
