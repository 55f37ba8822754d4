"""Long work on files: its stages as a bar on a terminal or a line every so often elsewhere, its errors, its end."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.filesize import decimal
from rich.progress import Task

from megachar.base.bars import fitted_progress
from megachar.base.errors import DataError

SECONDS_BETWEEN_LINES = 30.0

Advance = Callable[[int], None]
"""Called with the number of bytes done since the last call."""


class Stages:
    """Shows on `console` each stage that is opened: its title, bytes done, bytes a second and the time left.

    A log file gets no bar, whose redrawing would fill it, but a line each `seconds_between_lines`.
    """

    def __init__(self, console: Console, seconds_between_lines: float = SECONDS_BETWEEN_LINES) -> None:
        self.console = console
        self._seconds_between_lines = seconds_between_lines

    def __call__(self, title: str, num_bytes: int | None) -> AbstractContextManager[Advance]:
        """Open the stage `title` of `num_bytes` bytes, where that is known."""
        return self._bar(title, num_bytes) if self.console.is_terminal else self._lines(title, num_bytes)

    def tell(self, message: str) -> None:
        """Show a message above the bar."""
        self.console.print(message, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def _bar(self, title: str, num_bytes: int | None) -> Iterator[Advance]:
        def figures(task: Task) -> list[str]:
            of = "" if num_bytes is None else f"/{decimal(num_bytes)}"
            return [f"{decimal(int(task.completed))}{of}", f"{decimal(int(task.completed / (task.elapsed or 1)))}/s"]

        with fitted_progress(lambda task: title, figures, self.console, transient=True) as progress:
            task = progress.add_task(title, total=num_bytes)
            yield lambda done: progress.advance(task, done)

    @contextmanager
    def _lines(self, title: str, num_bytes: int | None) -> Iterator[Advance]:
        started = printed = time.monotonic()
        total = 0

        def advance(done: int) -> None:
            nonlocal total, printed
            total += done
            now = time.monotonic()
            if now - printed < self._seconds_between_lines or now == started:
                return
            printed = now
            rate = total / (now - started)
            of = "" if num_bytes is None else f" of {decimal(num_bytes)}"
            left = "" if num_bytes is None or rate <= 0 else f", {max(0, num_bytes - total) / rate:,.0f} s left"
            self.tell(f"{title}: {decimal(total)}{of}, {decimal(int(rate))}/s{left}")

        yield advance


@contextmanager
def errors_of_the_system(what: Path) -> Iterator[None]:
    """Errors of the disk, such as no space left or no permission, as a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{error.filename or what}: {error.strerror or error}; mend that and try again") from error


@contextmanager
def cleaned_up_on_termination() -> Iterator[None]:
    """SIGTERM leaves through the exception handlers, which remove what is half written."""

    def stop(signal_number: int, frame: FrameType | None) -> None:
        sys.exit(128 + signal_number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
