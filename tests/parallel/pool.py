"""Real gloo processes that run many cases: importing torch and deepspeed costs seconds, so ranks are started once."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

CASE_TIMEOUT_SECONDS = 300
CASES_BEFORE_RESTART = 5
"""Every case leaves a dozen process groups behind, each with a thread of gloo's that wakes a hundred times a second."""


class RankError(Exception):
    """A case failed on a rank; the message is that rank's traceback."""


class RankPool:
    """`size` processes in one torch.distributed world. A case is a top-level function, called on every rank."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []
        self._num_cases = 0

    def run(self, case: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Results of `case(*arguments)` by rank; if any rank fails, all are ended and its traceback is raised."""
        if self._num_cases == CASES_BEFORE_RESTART:
            self.close()
        if not self._processes:
            self._start()
        self._num_cases += 1
        for pipe in self._pipes:
            pipe.send((case, arguments))
        results: dict[int, Any] = {}
        while len(results) < self.size:
            waiting = [pipe for rank, pipe in enumerate(self._pipes) if rank not in results]
            ready = wait(waiting, CASE_TIMEOUT_SECONDS)
            if not ready:
                self.close()
                raise RankError(f"ranks {sorted(set(range(self.size)) - set(results))} did not finish {case.__name__}")
            for pipe in ready:
                rank = self._pipes.index(pipe)  # type: ignore[arg-type]
                try:
                    succeeded, value = pipe.recv()  # type: ignore[union-attr]
                except EOFError:
                    succeeded, value = False, "the process ended"
                if not succeeded:
                    self.close()
                    raise RankError(f"rank {rank} of {self.size} in {case.__name__}:\n{value}")
                results[rank] = value
        return [results[rank] for rank in range(self.size)]

    def close(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        self._processes, self._pipes, self._num_cases = [], [], 0

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        for rank in range(self.size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(rank, self.size, port, theirs), daemon=True)
            process.start()
            self._processes.append(process)
            self._pipes.append(ours)


def _work(rank: int, size: int, port: int, pipe: Connection) -> None:
    """Run the cases that come through the pipe until it closes."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",  # more threads add up in another order, and sums are compared bit by bit
    )  # fmt: skip
    import warnings

    import torch

    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    torch.set_num_threads(1)
    while True:
        try:
            case, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, case(*arguments)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
