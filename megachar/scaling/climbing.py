"""The runs of a ladder, several at a time, each by `megachar launch` in a process of its own. Imports no torch."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from megachar.base.errors import MegacharError
from megachar.base.exit_codes import ExitCode
from megachar.runs.branching import begin_branch
from megachar.runs.folder import run_folder
from megachar.runs.ownership import is_at_work
from megachar.scaling.ladder import LadderRun, shares_trunks
from megachar.sweeps.progress import State, progress_of

WAIT_SECONDS = 0.5


class Climb:
    """One pass over all runs of a ladder that are not finished.

    Runs of one trunk follow each other, each going on from the one before; trunks run side by side.
    """

    def __init__(self, runs: Sequence[LadderRun], jobs: int, say: Callable[[str], None]) -> None:
        """`jobs`: how many runs train at a time, each on its own share of this machine's cores."""
        self.runs, self.jobs, self.say = runs, jobs, say
        self.failed: list[str] = []
        self._shared = shares_trunks(runs) is None
        self._cores: SimpleQueue[list[int]] = SimpleQueue()
        for cores in shares_of_cores(jobs):
            self._cores.put(cores)
        self._started: set[subprocess.Popen[bytes]] = set()
        self._leaving = threading.Event()
        self._lock = threading.Lock()

    def run(self) -> int:
        """Train to the end of all, or until asked to leave; returns an `ExitCode`."""
        trunks: dict[str, list[LadderRun]] = {}
        for run in self.runs:
            trunks.setdefault(run.trunk, []).append(run)
        by_cost = sorted(trunks.values(), key=lambda trunk: -trunk[-1].account.flops)  # or a long one would be last
        with self._signals_taken(), ThreadPoolExecutor(self.jobs) as pool:
            list(pool.map(self._train_all, by_cost))
        if self._leaving.is_set():
            return ExitCode.PREEMPTED
        return ExitCode.FAILED if self.failed else 0

    def _train_all(self, trunk: Sequence[LadderRun]) -> None:
        before: LadderRun | None = None
        for run in trunk:
            if self._leaving.is_set():
                return
            try:
                finished = self._train(run, before)
            except (MegacharError, OSError) as error:
                self.say(f"{run.name}: {error}")
                finished = False
            if not finished and not self._leaving.is_set():
                self.failed.append(run.name)
            before = run if finished else None

    def _train(self, run: LadderRun, before: LadderRun | None) -> bool:
        """Train one run to its end; whether it came there. `before`: a finished run that is shorter."""
        folder = run_folder(run.run.experiment)
        while is_at_work(folder) and not self._leaving.wait(WAIT_SECONDS):
            pass  # of a ladder that was killed, whose runs go on to their end
        progress = progress_of(run.run.experiment)
        if progress.state is State.FINISHED:
            return True
        resume = progress.state is State.UNFINISHED
        if not resume and before is not None and self._shared:
            steps = begin_branch(before.run.experiment, run.run.experiment)
            self.say(f"{run.name}: continues from step {steps:,} of {before.name}")
            resume = True
        cores = self._cores.get()
        try:
            status = self._launch(run, resume, cores, folder.path.parent / "logs" / f"{run.name}.log")
        finally:
            self._cores.put(cores)
        finished = status == 0 and progress_of(run.run.experiment).state is State.FINISHED
        self.say(f"{run.name}: {'finished' if finished else f'ended with status {status}'}")
        return finished

    def _launch(self, run: LadderRun, resume: bool, cores: Sequence[int], log: Path) -> int:
        log.parent.mkdir(parents=True, exist_ok=True)
        main = "from megachar.cli import main; main()"
        command = [sys.executable, "-c", main, "launch", run.run.source, *run.run.overrides]
        command += ["--resume"] if resume else []
        threads = max(1, len(cores) // run.run.experiment.parallel.world_size)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        with log.open("ab") as file:
            with self._lock:
                if self._leaving.is_set():
                    return ExitCode.PREEMPTED
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment,
                                           start_new_session=True)  # fmt: skip
                self._started.add(process)
            if self._leaving.is_set():  # since it was looked at; the signal's handler may not have seen this process
                process.send_signal(signal.SIGTERM)
            if hasattr(os, "sched_setaffinity"):
                with contextlib.suppress(OSError):  # it has ended already
                    os.sched_setaffinity(process.pid, cores)
            status = process.wait()
        self._started.discard(process)
        return status

    @contextlib.contextmanager
    def _signals_taken(self) -> Iterator[None]:
        """SIGINT and SIGTERM ask the runs to save and leave."""

        def leave(number: int, _frame: object) -> None:
            self._leaving.set()
            for process in list(self._started):
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)

        before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def shares_of_cores(jobs: int) -> list[list[int]]:
    """This machine's cores, shared out; each is used by one job where there are enough of them."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    size = max(1, len(cores) // jobs)
    return [[cores[(job * size + place) % len(cores)] for place in range(size)] for job in range(jobs)]
