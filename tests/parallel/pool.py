"""Real gloo processes that run one case each, forked from a process that has imported torch, deepspeed and megachar."""

import multiprocessing
import os
import socket
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

CASE_TIMEOUT_SECONDS = 300
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.parallel.preload"])


class RankError(Exception):
    """A case failed on a rank; the message is that rank's traceback."""


@dataclass(frozen=True)
class RankPool:
    """A torch.distributed world of `size` processes. A case is a top-level function, called on every rank.

    Every case gets processes of its own, which cost little to fork and know nothing of the cases before.
    """

    size: int

    def run(self, case: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Results of `case(*arguments)` by rank; if any rank fails, all are ended and its traceback is raised."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        processes, ranks = [], dict[Connection, int]()
        try:
            for rank in range(self.size):
                ours, theirs = _FORKS.Pipe(duplex=False)
                process = _FORKS.Process(
                    target=_work, args=(rank, self.size, port, theirs, case, arguments), daemon=True
                )
                process.start()
                theirs.close()
                processes.append(process)
                ranks[ours] = rank
            return self._results(ranks, case.__name__)
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.join()

    def _results(self, ranks: dict[Connection, int], case: str) -> list[Any]:
        """What the ranks send through these pipes, by rank."""
        results: dict[int, Any] = {}
        while len(results) < self.size:
            missing = [pipe for pipe, rank in ranks.items() if rank not in results]
            ready = wait(missing, CASE_TIMEOUT_SECONDS)
            if not ready:
                raise RankError(f"ranks {sorted(ranks[pipe] for pipe in missing)} did not finish {case}")
            for pipe in ready:
                assert isinstance(pipe, Connection)
                try:
                    succeeded, value = pipe.recv()
                except EOFError:
                    succeeded, value = False, "the process ended"
                if not succeeded:
                    raise RankError(f"rank {ranks[pipe]} of {self.size} in {case}:\n{value}")
                results[ranks[pipe]] = value
        return [results[rank] for rank in range(self.size)]


def _work(
    rank: int, size: int, port: int, pipe: Connection, case: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """On a rank: run the case and send what it gives."""
    threading.Thread(target=_end_with_the_tests, daemon=True).start()
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",  # more threads add up in another order, and sums are compared bit by bit
    )  # fmt: skip
    import warnings

    import torch
    from torch.distributed import distributed_c10d

    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    torch.set_num_threads(1)
    distributed_c10d._tensor_to_object = _refuse_pickles
    try:
        pipe.send((True, case(*arguments)))
    except BaseException:
        pipe.send((False, traceback.format_exc()))


def _refuse_pickles(*_: Any) -> Any:
    """In place of what every collective of objects unpickles with, DeepSpeed's as well: no path of ours has one."""
    raise AssertionError("a collective unpickles what another rank has sent")


def _end_with_the_tests() -> None:
    """On a rank, in a thread: leave nothing running where the tests are killed."""
    tests = multiprocessing.parent_process()
    assert tests is not None
    wait([tests.sentinel])
    os._exit(1)
