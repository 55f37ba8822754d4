"""Who does the work: this process, a pool of processes on this machine, or the ranks of an MPI job."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, cast

from megachar.base.errors import ConfigError, DataError
from megachar.corpora.encoding import STOP_NAME, Stopped
from megachar.data.digests import hash_file

LAST_WORD_SECONDS = 0.3
"""How long those who are told to stop are waited for; mpirun gives the ranks it ends one second."""


@contextmanager
def local_processes(num_workers: int) -> Iterator[Executor]:
    """A pool of `num_workers` processes. They end with this one, however it ends."""
    # Started anew rather than forked: this process has threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_begin_worker) as executor:
        yield executor


@contextmanager
def mpi_ranks() -> Iterator[tuple[Executor | None, int]]:
    """The ranks of this MPI job as an executor, and their number. Rank 0 joins what the others encode.

    On other ranks the executor is None once all work is done: there is nothing left to do there.
    ConfigError where mpi4py is missing or the job has a single rank.
    """
    try:
        from mpi4py import MPI
        from mpi4py.futures import MPICommExecutor
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            f"--mpi needs mpi4py and an MPI library ({error}): apt install openmpi-bin, pip install mpi4py"
        ) from None
    if MPI.COMM_WORLD.size < 2:
        raise ConfigError("--mpi with a single rank: start it with mpirun -n 2 or more, or leave out --mpi")
    with MPICommExecutor(MPI.COMM_WORLD, root=0) as executor:
        yield cast(Executor | None, executor), MPI.COMM_WORLD.size - 1


def in_order(
    executor: Executor, num_workers: int, tasks: Iterable[tuple[Any, ...]], folder: Path
) -> Generator[Any, None, None]:
    """The results of `tasks`, each a function and its arguments, in their order.

    Only some run ahead of the one that is waited for, so that their files do not pile up. When anything fails here or
    there, the file `folder`/stop tells the others to give up; DataError where a worker died.
    """
    pending: deque[Future[Any]] = deque()
    try:
        for task in tasks:
            with _interrupts_kept_from_children():
                pending.append(executor.submit(*task))
            if len(pending) > 2 * num_workers:
                yield pending[0].result()
                pending.popleft()
        while pending:
            yield pending[0].result()
            pending.popleft()
    except BrokenProcessPool:
        raise DataError(
            "a worker process died (killed, or out of memory?): nothing was written; start again, with fewer --workers "
            "if memory ran out"
        ) from None
    finally:
        if pending:
            tell_to_stop(folder)
            # Not for ever: of a rank that was killed nothing will be heard, and this one is soon killed with it.
            concurrent.futures.wait([future for future in pending if not future.cancel()], LAST_WORD_SECONDS)


def tell_to_stop(folder: Path) -> None:
    """Tell everybody who works on the parts in `folder` that they are not wanted any more."""
    with contextlib.suppress(OSError):  # on a full disk; then their own writing fails
        (folder / STOP_NAME).touch()


def hash_source(path: Path, folder: Path) -> str:
    """The sha256 of a file. Stopped where `folder` holds the file that says so."""

    def check(num_bytes: int) -> None:
        if (folder / STOP_NAME).exists():
            raise Stopped

    return hash_file(path, "sha256", check)


@contextmanager
def _interrupts_kept_from_children() -> Iterator[None]:
    """Ctrl-C, which every process of a terminal gets, does not reach processes that are started meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent; end when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
