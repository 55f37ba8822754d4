"""Output by rank: everything a rank prints goes to its log.

The terminal shows what rank 0's megachar has to say, and the first error of any rank. What libraries print, such as
warnings of torch and DeepSpeed, stands in the logs.
"""

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from io import TextIOWrapper
from pathlib import Path
from queue import SimpleQueue

from rich.console import Console

from megachar.base.errors import PlatformError
from megachar.runs.folder import RunFolder
from megachar.training.display import Terminal

FIRST_ERROR = "first-error"


class RankOutput:
    """This process's output from now on.

    The file descriptors themselves are led into the log, so that it also holds what libraries and child processes
    print, and a crash's last words.
    """

    def __init__(self, folder: RunFolder, rank: int) -> None:
        """Lead standard output and error into the rank's log, at its end.

        Raises:
            PlatformError: the log cannot be written.
        """
        self.rank = rank
        self.log = log_of(folder.logs, rank)
        try:
            folder.logs.mkdir(parents=True, exist_ok=True)
            if rank == 0:
                (folder.logs / FIRST_ERROR).unlink(missing_ok=True)
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise PlatformError(f"{self.log} cannot be written: {error}; free space, or set output=FOLDER") from error
        sys.stdout.flush()
        sys.stderr.flush()
        self._stderr = os.dup(2)
        console = Console(
            file=os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors="backslashreplace"),
            # Rank 0's alone. Open MPI gives every rank a terminal of its own and copies what is on it: no place for
            # what moves the cursor.
            force_terminal=False if rank or "OMPI_COMM_WORLD_RANK" in os.environ else None,
            highlight=False,
            soft_wrap=True,
            markup=False,
        )
        self._shower = _Shower(console)
        self.terminal = Terminal(console, self._shower.show)
        """What was standard output before."""
        for descriptor, stream in ((1, sys.stdout), (2, sys.stderr)):
            os.dup2(log, descriptor)
            if isinstance(stream, TextIOWrapper):  # the log is in UTF-8, whatever the terminal can show
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")
        os.close(log)
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        print(f"--- {started} rank {rank}, process {os.getpid()} on {socket.gethostname()}", flush=True)
        self._shower.start()

    def report_error(self, summary: str, rank: int) -> None:
        """Show an error of a rank on the terminal if no rank has shown one before."""
        try:
            descriptor = os.open(self.log.parent / FIRST_ERROR, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{summary}\n")
        except FileExistsError:
            return
        except OSError:  # a full disk, which may be the very error: show it all the same
            pass
        with suppress(OSError):
            os.write(self._stderr, f"{summary}\nits output: {log_of(self.log.parent, rank)}\n".encode())

    def close(self) -> None:
        """See that the terminal has shown all that it was given. Whatever comes after stands in the log alone."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._shower.finish()


def log_of(folder: Path, rank: int) -> Path:
    """The log of a rank."""
    return folder / f"rank-{rank:04d}.log"


@contextmanager
def led_aside(log: Path) -> Iterator[None]:
    """Lead what this process prints in the block into a log, at its end, where that can be written."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:  # the ranks will say so
        yield
        return
    sys.stdout.flush()
    sys.stderr.flush()
    before = [(descriptor, os.dup(descriptor)) for descriptor in (1, 2)]
    for descriptor, _ in before:
        os.dup2(file, descriptor)
    os.close(file)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, kept in before:
            os.dup2(kept, descriptor)
            os.close(kept)


class _Shower(threading.Thread):
    """Shows lines on a terminal, which may be slow, stopped or gone; whoever has lines to show goes on."""

    def __init__(self, console: Console) -> None:
        super().__init__(name="terminal", daemon=True)
        self._console = console
        self._lines = SimpleQueue[str | None]()

    def show(self, text: str) -> None:
        self._lines.put(text)

    def run(self) -> None:
        while (text := self._lines.get()) is not None:
            with suppress(OSError):
                self._console.print(text)

    def finish(self) -> None:
        self._lines.put(None)
        self.join()
