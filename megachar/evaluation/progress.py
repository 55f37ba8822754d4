"""Progress of an evaluation: a bar on a terminal, a line every so often elsewhere. Imports no torch."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from megachar.base.bars import fitted_progress

SECONDS_BETWEEN_LINES = 30.0

Progress = Callable[[int], None]
"""Called with the number of characters done since the last call."""


@contextmanager
def show_progress(
    console: Console, total: int, seconds_between_lines: float = SECONDS_BETWEEN_LINES, doing: str = "scoring"
) -> Iterator[Progress]:
    """A function to call with the number of characters done since the last call, shown on `console` against `total`.

    A log file gets no bar, whose redrawing would fill it, but a line each `seconds_between_lines`.
    """
    if not console.is_terminal:
        yield _lines(console, total, seconds_between_lines, doing)
        return
    with fitted_progress(
        lambda task: doing, lambda task: [f"{task.completed:,}/{total:,} characters"], console, transient=True
    ) as bar:
        task = bar.add_task(doing, total=total)
        yield lambda count: bar.advance(task, count)


def _lines(console: Console, total: int, seconds_between_lines: float, doing: str) -> Progress:
    started = printed = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, printed
        done += count
        now = time.monotonic()
        if now - printed < seconds_between_lines or now == started:
            return
        printed = now
        rate = done / (now - started)
        console.print(
            f"{doing}: {done:,} of {total:,} characters ({done / total:.0%}), {rate:,.0f} characters/s, "
            f"{(total - done) / rate:,.0f} s left",
            highlight=False,
            soft_wrap=True,
        )

    return advance
