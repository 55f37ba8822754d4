"""Several processes that share the batches of one evaluation: batch j belongs to process j % N.

Each worker has a pipe of its own to the parent. It gets its job through it, sends one array per batch, and ends. The
parent reads the pipes in turn, so the arrays come in the text's order; a full pipe holds a fast worker back; the end of
a pipe tells of a worker that died, or of a parent that did.
"""

import signal
import traceback
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.multiprocessing as mp
from safetensors.torch import load, save

from megachar.base.errors import ConfigError, PlatformError
from megachar.config.sections.model import ModelConfig
from megachar.evaluation.scoring import make_scorer
from megachar.evaluation.settings import EvaluationSettings
from megachar.evaluation.windows import WindowPlan
from megachar.families.model import Model, build_model


@dataclass(frozen=True)
class Job:
    """What a worker needs. Weights travel as bytes: tensors would go through /dev/shm, 64 MB in many containers."""

    number: int
    num_workers: int
    device: torch.device
    num_threads: int
    config: ModelConfig
    weights: bytes
    tokens: npt.NDArray[Any]
    plan: WindowPlan
    settings: EvaluationSettings


@dataclass(frozen=True)
class _Failure:
    message: str
    trace: str


def score_in_processes(
    model: Model, tokens: npt.NDArray[Any], plan: WindowPlan, settings: EvaluationSettings, device: torch.device
) -> Iterator[npt.NDArray[np.float64]]:
    """Nats of the scored characters (p,) of batch after batch, computed by `settings.processes` processes.

    On the CPU they share this process's threads. ConfigError where they are more than the host's GPUs; PlatformError
    where a worker fails or dies; by then none is left.
    """
    if device.type == "cuda" and settings.processes > (num_gpus := torch.cuda.device_count()):
        raise ConfigError(
            f"processes = {settings.processes}, but this host has {num_gpus} GPUs and each process needs one; "
            f"set --processes {num_gpus}, or --device cpu"
        )
    num_batches = plan.num_batches(settings.side_by_side)
    count = min(settings.processes, num_batches)
    weights = save({name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()})
    num_threads = max(1, torch.get_num_threads() // settings.processes)

    def job(number: int) -> Job:
        own = torch.device("cuda", number) if device.type == "cuda" else device
        plain = np.asarray(tokens)  # a memory map would be pickled as one
        return Job(number, count, own, num_threads, model.config, weights, plain, plan, settings)

    yield from gather(work, [job(number) for number in range(count)], num_batches)


def gather(target: Callable[[Connection], None], jobs: list[Job], num_results: int) -> Generator[Any, None, None]:
    """Start a process with `target` per job, give it the job, and yield results in turn; none outlives the iterator."""
    context = mp.get_context("spawn")
    processes, connections = [], []
    try:
        for _ in jobs:
            ours, theirs = context.Pipe()
            process = context.Process(target=target, args=(theirs,), daemon=True)
            process.start()
            theirs.close()  # else the end of the worker would not end the pipe
            processes.append(process)
            connections.append(ours)
        for number, job in enumerate(jobs):
            try:
                connections[number].send(job)
            except OSError:
                raise _died(number, processes[number]) from None
        for j in range(num_results):
            number = j % len(jobs)
            yield _receive(number, connections[number], processes[number])
    finally:
        for process, connection in zip(processes, connections, strict=True):
            connection.close()
            process.terminate()
        for process in processes:
            process.join()


def work(connection: Connection) -> None:
    """A worker's life: take the job, send the nats of its batches, end. Any error goes to the parent as text."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends the workers itself
    try:
        job: Job = connection.recv()
        torch.set_num_threads(job.num_threads)
        weights = load(job.weights)
        model = build_model(job.config, auxiliary=None).to(next(iter(weights.values())).dtype).eval()
        model.load_state_dict(weights)
        scorer, size = make_scorer(model, job.device, job.settings.precision), job.settings.side_by_side
        for j in range(job.number, job.plan.num_batches(size), job.num_workers):
            connection.send(scorer.nats(job.tokens, job.plan.batch(j, size)))
    except (EOFError, BrokenPipeError):
        return  # the parent is gone
    except Exception as error:
        connection.send(_Failure(f"{type(error).__name__}: {error}", traceback.format_exc()))


def _receive(number: int, connection: Connection, process: Any) -> Any:
    try:
        result = connection.recv()
    except (EOFError, OSError):
        raise _died(number, process) from None
    if isinstance(result, _Failure):
        raise PlatformError(f"evaluation process {number} failed: {result.message}\n{result.trace}")
    return result


def _died(number: int, process: Any) -> PlatformError:
    process.join(timeout=5)
    return PlatformError(
        f"evaluation process {number} died without a word (exit code {process.exitcode}; -9 is most often the "
        "system out of memory); set fewer --processes or a smaller --batch-size"
    )
