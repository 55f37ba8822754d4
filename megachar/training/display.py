"""What the main rank shows while it trains: a progress bar on a terminal, plain lines elsewhere."""

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import TaskID

from megachar.base.bars import fitted_progress, format_duration, share_done, time_left

if TYPE_CHECKING:  # numpy, which has threads from its import on, where the launcher forks
    from megachar.data.vocabulary import Unit


@dataclass(frozen=True)
class Report:
    """The figures of one logging interval."""

    step: int
    bits_per_character: float
    learning_rate: float
    characters_per_second: float
    flops_per_second: float
    device_share: float | None
    """Share of the device's peak operations per second; None where the peak is not known."""
    memory_bytes: int
    gradient_norm: float | None = None
    validation: float | None = None
    """Bits per character of the latest validation."""

    def record(self) -> dict[str, Any]:
        """What metrics.jsonl keeps of it."""
        return {name: value for name, value in vars(self).items() if name not in {"step", "validation"}}

    def parts(self, unit: "Unit" = "character") -> list[str]:
        """Pieces of text, the most important first; `unit`: what all figures are of."""
        short = "char" if unit == "character" else unit
        parts = [
            f"{self.bits_per_character:.4f} bits/{short}",
            f"{self.characters_per_second:,.0f} {short}s/s",
            f"{_scaled(self.flops_per_second)}FLOP/s",
            f"lr {self.learning_rate:.2e}",
            f"{self.memory_bytes / 2**30:.2f} GiB",
        ]
        if self.device_share is not None:
            parts[2] += f" ({self.device_share:.0%} of peak)"
        if self.validation is not None:
            parts.insert(1, f"valid {self.validation:.4f}")
        return parts


@dataclass(frozen=True)
class Terminal:
    """What the main rank shows things on, where its standard output is led into a log."""

    console: Console
    """For the bar."""
    show: Callable[[str], None]
    """Shows a line of ours above the bar, and never waits for the terminal."""


class Display:
    """A context manager around training; silent on all ranks but the main one.

    What it prints goes to standard output, and where that is led into a log, to `terminal` as well, which shows nothing
    else: what libraries print stands in the log alone.
    """

    def __init__(
        self,
        total_steps: int,
        first_step: int,
        active: bool,
        terminal: Terminal | None = None,
        unit: "Unit" = "character",
    ) -> None:
        self.console = Console(quiet=not active, highlight=False, soft_wrap=True, markup=False)
        self._active, self._total, self._unit = active, total_steps, unit
        self._show = terminal.show if terminal is not None and active else None
        drawn_on = self.console if terminal is None else terminal.console
        self._figures: list[str] = []
        self._progress = fitted_progress(
            lambda task: f"step {task.completed}/{total_steps}",
            lambda task: [*self._figures, f"after {format_duration(task.elapsed or 0)}"],
            drawn_on,
            disable=not (active and drawn_on.is_terminal),
        )
        self._task: TaskID = self._progress.add_task("", total=total_steps, completed=first_step, first=first_step)

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def advance(self, step: int) -> None:
        """`step` steps are done."""
        self._progress.update(self._task, completed=step)

    def report(self, report: Report) -> None:
        """Show new figures."""
        self._figures = report.parts(self._unit)
        if self._active and not self.console.is_terminal:
            task = self._progress.tasks[0]
            head = f"step {report.step}/{self._total}  {share_done(task)}  {time_left(task)} left"
            self.note("  ".join([head, *self._figures]))

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text)
        if self._show is not None:
            self._show(text)


def _scaled(value: float) -> str:
    for unit in ("", "k", "M", "G", "T"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} P"
