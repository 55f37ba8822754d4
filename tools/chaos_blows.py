"""What tools/chaos.py does to a run, at random moments.

A full disk is a real one: the run folder is a small disk in memory that this process mounts for itself alone.
"""

import ctypes
import errno
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from chaos_run import END_SECONDS, TOTAL_STEPS, Run, check

from megachar.base.exit_codes import ExitCode
from megachar.watch import launchers

Kind = Literal["kill -9", "preemption", "full disk", "bad steps"]
Moment = Literal["starting", "training", "saving"]
RANKS = ("rank 0", "rank 1", "rank 2", "rank 3")
VICTIMS: dict[Kind, Sequence[str]] = {
    "kill -9": (*RANKS, "launcher", "launcher", "supervisor", "supervisor"),
    "preemption": (*RANKS, "launcher", "launcher", "supervisor", "supervisor"),
    "full disk": ("the run folder",),
    "bad steps": RANKS,
}
PREEMPTIONS = (signal.SIGTERM, signal.SIGUSR1)
START_SECONDS = 6.0
"""From `megachar launch` to the first step, about."""
CLONE_NEWNS = 0x00020000
DISK_BYTES = 24 << 20


@dataclass(frozen=True)
class Blow:
    """One of a run's."""

    kind: Kind
    victim: str
    moment: Moment
    step: int
    """Not before so many steps."""
    delay: float
    """Share of the time by which it comes later than that."""
    signal: signal.Signals

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.signal.name} to {self.victim}" if self.kind == "preemption" else f"{self.kind} of {self.victim}"

    @property
    def ends_the_run(self) -> bool:
        """Whether it is for `--resume` to go on; else the supervisor does."""
        return self.kind != "kill -9" or self.victim == "supervisor"


@dataclass
class Story:
    """What became of a run under its blows."""

    blows: list[str] = field(default_factory=list)
    """Those that struck, and when."""
    kinds: list[Kind] = field(default_factory=list)
    """Of these."""
    statuses: list[int] = field(default_factory=list)
    """Of `megachar launch`, start by start."""
    gone_seconds: float | None = None
    """From the supervisor's death to the last process gone."""


def draw_blows(chance: random.Random, kinds: Sequence[Kind], first: Kind) -> list[Blow]:
    """One blow or several, in the order of their steps."""
    chosen = [first, *chance.choices(kinds, k=chance.choices((0, 1, 2), (5, 3, 2))[0])]
    chance.shuffle(chosen)
    steps = sorted(chance.sample(range(1, TOTAL_STEPS - 4), len(chosen)))
    return [_draw(chance, kind, step) for kind, step in zip(chosen, steps, strict=True)]


def _draw(chance: random.Random, kind: Kind, step: int) -> Blow:
    signals = kind in ("kill -9", "preemption")
    moments: tuple[Moment, ...] = ("starting", "training", "saving")
    moment = chance.choices(moments, (2 * signals, 4, 4 * (kind != "bad steps")))[0]
    return Blow(kind, chance.choice(VICTIMS[kind]), moment, step, chance.random(), chance.choice(PREEMPTIONS))


def disturb(run: Run, blows: Sequence[Blow]) -> Story:
    """Take a run to its end, whatever comes over it on the way."""
    story, left = Story(), list(blows)
    while True:
        started, blow, strikes = run.start("--max-restarts", "3"), None, 0.0
        while left and started.poll() is None:
            blow = left.pop(0)
            strikes = _strike(run, blow, started, story)
            if blow.ends_the_run:
                break
        status = started.wait(END_SECONDS)
        gone = run.wait_until_gone()
        if blow is not None and blow.victim == "supervisor" and status == -signal.SIGKILL:
            story.gone_seconds = max(gone - strikes, story.gone_seconds or 0.0)
        story.statuses.append(status)
        (run.folder.path / "ballast").unlink(missing_ok=True)
        run.bad_steps.unlink(missing_ok=True)
        if status == ExitCode.DONE:
            return story
        check(bool(left) or len(story.statuses) <= len(blows), f"{run.folder.path} does not come to its end: {story}")


def _strike(run: Run, blow: Blow, started: "subprocess.Popen[bytes]", story: Story) -> float:
    """Wait for the moment, unless the run ends before it, and strike; returns the time."""
    if blow.moment == "starting":
        time.sleep(blow.delay * START_SECONDS)
    else:
        while run.steps() < blow.step or (blow.moment == "saving" and not run.saving() and run.steps() < TOTAL_STEPS):
            if started.poll() is not None:
                return time.time()
            time.sleep(0.001)
        time.sleep(blow.delay * (0.02 if blow.moment == "saving" else 0.2))
    when = f"step {run.steps()}{', saving' * run.saving()}{', starting' * (blow.moment == 'starting')}"
    process = run.find(blow.victim)
    if blow.kind == "full disk":
        _fill(run.folder.path)
    elif blow.kind == "bad steps":
        run.bad_steps.write_text(blow.victim.removeprefix("rank "))
    elif process is None or launchers.is_gone(process):
        return time.time()
    else:
        process.send_signal(signal.SIGKILL if blow.kind == "kill -9" else blow.signal)
    story.kinds.append(blow.kind)
    story.blows.append(f"{blow.name} ({when})")
    return time.time()


def _fill(folder: Path) -> None:
    """Leave no room on a small disk."""
    with (folder / "ballast").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            while True:
                try:
                    file.write(bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    break


def take_own_mounts() -> bool:
    """Whether this process may mount disks. They are gone with it and what it starts, and nobody else sees them."""
    return os.geteuid() == 0 and ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0 and _mount("--make-rprivate", "/") == 0


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of its own at a folder, which is empty again afterwards."""
    folder.mkdir(parents=True)
    check(_mount("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "chaos", str(folder)) == 0, f"no disk at {folder}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def _mount(*arguments: str) -> int:
    return subprocess.run(["mount", *arguments], check=False).returncode
