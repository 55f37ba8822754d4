"""Output by rank: everything a rank prints goes to its log; the terminal shows rank 0's, and the first error of any."""

import os
import socket
import sys
import threading
from contextlib import suppress
from datetime import datetime, timezone
from io import TextIOWrapper
from pathlib import Path

from rich.console import Console

from megachar.errors import PlatformError
from megachar.training.run_folder import RunFolder

FOLLOW_SECONDS = 0.2
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
        self.terminal = Console(
            file=os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors="backslashreplace"),
            # Open MPI gives every rank a terminal of its own and copies what is on it: no place for a progress bar.
            force_terminal=False if "OMPI_COMM_WORLD_RANK" in os.environ else None,
            highlight=False,
            soft_wrap=True,
            markup=False,
        )
        """What was standard output before."""
        self._follower = _Follower(self.log, os.fstat(log).st_size, self.terminal) if rank == 0 else None
        for descriptor, stream in ((1, sys.stdout), (2, sys.stderr)):
            os.dup2(log, descriptor)
            if isinstance(stream, TextIOWrapper):  # the log is in UTF-8, whatever the terminal can show
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")
        os.close(log)
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        print(f"--- {started} rank {rank}, process {os.getpid()} on {socket.gethostname()}", flush=True)
        if self._follower is not None:
            self._follower.start()

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
        """Show what rank 0 has printed to the last line. Whatever comes after stands in the log alone."""
        sys.stdout.flush()
        sys.stderr.flush()
        if self._follower is not None:
            self._follower.finish()


def log_of(folder: Path, rank: int) -> Path:
    """The log of a rank."""
    return folder / f"rank-{rank:04d}.log"


class _Follower(threading.Thread):
    """Shows what is appended to a log."""

    def __init__(self, log: Path, start: int, terminal: Console) -> None:
        super().__init__(name="log follower", daemon=True)
        self._log, self._start, self._terminal = log, start, terminal
        self._finished = threading.Event()

    def run(self) -> None:
        with suppress(OSError), self._log.open(encoding="utf-8", errors="replace", newline="") as file:
            file.seek(self._start)
            file.readline()  # the heading
            line = ""
            while True:
                last = self._finished.wait(FOLLOW_SECONDS)
                while part := file.readline():
                    line += part
                    if line.endswith("\n"):
                        self._terminal.print(line[:-1])
                        line = ""
                if last:
                    self._terminal.print(line, end="")
                    return

    def finish(self) -> None:
        self._finished.set()
        self.join()
