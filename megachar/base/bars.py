"""Progress in one line that fits any terminal: what is done, its share and the time left first, then what else fits."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.progress import Progress, ProgressColumn, Task
from rich.segment import Segment

SHORTEST_BAR, LONGEST_BAR = 8, 20


def fitted_progress(
    first: Callable[[Task], str], more: Callable[[Task], Iterable[str]], console: Console, transient: bool = False,
    disable: bool = False,
) -> Progress:  # fmt: skip
    """A progress display on `console` in one line: `first`, share, time left, and a bar and `more` while they fit.

    `more` is in the order of importance. A task that begins in the midst says where in its field `first`.
    """

    return Progress(_Line(first, more), console=console, transient=transient, disable=disable, expand=True)


@contextmanager
def waiting(for_what: str, console: Console) -> Iterator[None]:
    """Say on a terminal what the block is busy with; nothing is left of that at its end, nor shown elsewhere.

    No thread is at work, so a process may fork in the block.
    """
    if not console.is_terminal or console.is_dumb_terminal:
        yield
        return
    with suppress(OSError):  # nobody is there to be told
        console.file.write(f"{for_what} ..."[: console.width - 1])  # what wraps would stay
        console.file.flush()
    try:
        yield
    finally:
        with suppress(OSError):
            console.file.write("\r\x1b[2K")
            console.file.flush()


def share_done(task: Task) -> str:
    """100% only at the end; a question mark where the total is not known."""
    return f"{int(100 * task.completed / task.total)}%" if task.total else "?%"


def time_left(task: Task) -> str:
    """At the average pace of this process, whatever it did besides."""
    done = task.completed - task.fields.get("first", 0)
    if task.total is None or not task.elapsed or done <= 0:
        return "-:--:--"
    return format_duration(task.elapsed / done * (task.total - task.completed))


def format_duration(seconds: float) -> str:
    """`1:02:03`, and from a hundred hours on `4d 5h`."""
    minutes, rest = divmod(round(seconds), 60)
    hours = minutes // 60
    if hours >= 100:
        return f"{hours // 24}d {hours % 24}h"
    return f"{hours}:{minutes % 60:02}:{rest:02}"


class _Line(ProgressColumn):
    """The only column of a display."""

    def __init__(self, first: Callable[[Task], str], more: Callable[[Task], Iterable[str]]) -> None:
        super().__init__()
        self._first, self._more = first, more

    def render(self, task: Task) -> RenderableType:
        head = f"{self._first(task)} {share_done(task)} {time_left(task)} left"
        return _Fitted(head, list(self._more(task)), task.completed, task.total)


@dataclass(frozen=True)
class _Fitted:
    head: str
    more: list[str]
    completed: float
    total: float | None

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(options.max_width, options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        tail, room = "", options.max_width - cell_len(self.head)
        for part in self.more:
            if cell_len(tail) + cell_len(part) + 2 > room:
                break
            tail += f"  {part}"
        bar = min(room - cell_len(tail) - 1, LONGEST_BAR)
        yield Segment(self.head)
        if bar >= SHORTEST_BAR:
            done = int(bar * self.completed / self.total) if self.total else 0
            full, empty = "#." if options.ascii_only else "━─"  # which differ without colors as well
            yield Segment(" ")
            yield Segment(full * done, console.get_style("bar.complete"))
            yield Segment(empty * (bar - done))
        yield Segment(tail)
