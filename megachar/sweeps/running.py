"""The runs of a sweep, one after another. What starts a run is the caller's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from megachar.base.errors import MegacharError
from megachar.base.exit_codes import ExitCode
from megachar.runs.folder import run_folder
from megachar.sweeps.progress import Progress, State, progress_of
from megachar.sweeps.sweep import SweepRun


@dataclass(frozen=True)
class RunEnd:
    """How a run came to its end."""

    status: int
    """As of `megachar launch`."""
    asked_to_leave: bool
    """Whether a signal came, whatever the status: no other run is to be started."""


@dataclass(frozen=True)
class SweepEnd:
    """How a sweep came to its end."""

    status: int
    """An `ExitCode`, or 128 + the signal that ended a run at once."""
    failed: tuple[str, ...] = ()
    """Names of the runs that failed."""


Start = Callable[[SweepRun, bool], RunEnd]
"""Trains a run to its end; True: goes on with it."""


def run_sweep(runs: Sequence[SweepRun], start: Start, say: Callable[[str], None]) -> SweepEnd:
    """Train every run that is not finished.

    A run that fails is reported, and the others still run; the status is 1 then. Where training is asked to leave, the
    sweep leaves too, and called again it goes on.

    Raises:
        ConfigError: a run folder is of a run with other settings; nothing was started.
        MegacharError: the first run that is not finished cannot start.
    """
    # All before the first starts: on hosts that each run this, none may see what another one has begun.
    progress = [progress_of(run.experiment) for run in runs]
    to_do = [run.name for run, before in zip(runs, progress, strict=True) if before.state is not State.FINISHED]
    failed: list[str] = []
    for number, (run, before) in enumerate(zip(runs, progress, strict=True), start=1):
        title = f"run {number} of {len(runs)}, {run.name}"
        if before.state is State.FINISHED:
            say(f"{title}: finished already{_bits(before)}")
            continue
        say(f"{title}: {_outlook(run, before)}")
        try:
            end = start(run, before.state is State.UNFINISHED)
        except MegacharError as error:
            if run.name == to_do[0]:
                raise
            say(f"{title}: {type(error).__name__}: {error}")
            end = RunEnd(ExitCode.USER_ERROR, False)
        left = end.status == ExitCode.PREEMPTED or end.status >= 128
        if end.status == ExitCode.DONE:
            say(f"{title}: finished{_bits(progress_of(run.experiment))}")
        elif not left:
            failed.append(run.name)
            say(f"{title}: failed with status {end.status}; see {run_folder(run.experiment).logs}")
        if left or (end.asked_to_leave and (end.status != ExitCode.DONE or run.name != to_do[-1])):
            say("left on request; the same command continues the sweep")
            return SweepEnd(end.status or ExitCode.PREEMPTED, tuple(failed))
    if failed:
        say(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}; the same command tries them again")
        return SweepEnd(ExitCode.FAILED, tuple(failed))
    say(f"all {len(runs)} runs are finished")
    return SweepEnd(ExitCode.DONE)


def _outlook(run: SweepRun, before: Progress) -> str:
    """What is about to be trained."""
    steps = f"{run.experiment.training.total_steps:,} steps"
    own = " ".join(run.own) or "the base as it is"
    return f"{own}; {steps}" + (f", continuing from {before.step:,}" if before.state is State.UNFINISHED else "")


def _bits(progress: Progress) -> str:
    bits = progress.validation_bits
    return "" if bits is None else f", validation {bits:.4f} bits per {progress.unit}"
