"""What DeepSpeed's engines cost, and what pipeline stages gain. Contenders take turns in one run; ratios are of pairs.

    python tools/benchmark.py engine small                     # one process: the engine against the bare loop
    python tools/benchmark.py pipeline small                    # two stages against one process, one thread each
    python tools/benchmark.py device t64-modern                # characters/s and memory on this machine's device
    python tools/benchmark.py saving t12                       # what a checkpoint costs: standstill, and time to disk

The first argument is a preset or a YAML file, further ones are overrides. Text is random symbols. The layout
(parallel.*) is the benchmark's; the first two run on CPUs, in fp32.
"""

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from megachar.config.experiment import Experiment
from megachar.config.loading import load_experiment
from megachar.launching.network import free_port

app = typer.Typer(add_completion=False, no_args_is_help=True)

ONE_PROCESS = ("parallel.pipe=1", "parallel.tensor=1", "parallel.data=1")

Source = Annotated[str, typer.Argument(help="a preset or a YAML file")]
Overrides = Annotated[list[str] | None, typer.Argument(help="section.key=value")]
Rounds = Annotated[int, typer.Option(min=1, help="turns of every contender")]
Steps = Annotated[int, typer.Option(min=1, help="steps in a turn")]


@app.command()
def engine(source: Source, overrides: Overrides = None, rounds: Rounds = 7, steps: Steps = 3, threads: int = 1) -> None:
    """Characters/s of one process under DeepSpeed's engine against the bare single-device loop. Goal: 0.95 or more."""
    experiment = load_experiment(
        source, [*(overrides or []), "parallel.pipe=1", "parallel.tensor=1", "parallel.data=1"]
    )
    contenders = [Contender("bare loop", bare_loop, experiment, 1, threads),
                  Contender("engine", under_engine, experiment, 1, threads)]  # fmt: skip
    compare(contenders, rounds, steps, goal=0.95)


@app.command()
def pipeline(source: Source, overrides: Overrides = None, rounds: Rounds = 7, steps: Steps = 3) -> None:
    """Characters/s of two pipeline stages against one process, one thread each. Goal: 0.9 of 2m / (m + 1).

    Two processes that share nothing show what two cores of this machine give at most.
    """
    common = [*(overrides or []), *ONE_PROCESS, "deepspeed=fp32"]
    single, double = (load_experiment(source, [*common, f"parallel.pipe={pipe}"]) for pipe in (1, 2))
    m = single.batch.num_micro_batches
    contenders = [Contender("one process", under_engine, single, 1, 1),
                  Contender("two stages", under_engine, double, 2, 1),
                  Contender("two processes on their own", under_engine, single, 2, 1, independent=True)]  # fmt: skip
    compare(contenders, rounds, steps, goal=0.9 * 2 * m / (m + 1))


@app.command()
def device(source: Source, overrides: Overrides = None, steps: Steps = 10) -> None:
    """Characters/s, share of peak and memory of one process on this machine's device, after one step of warm-up."""
    import torch

    from megachar.base.device import choose_device
    from megachar.families.counting import step_flops
    from megachar.losses.auxiliary import layer_weights
    from megachar.training.speed import SpeedMeter

    experiment = load_experiment(source, [*(overrides or []), *ONE_PROCESS])
    chosen = choose_device(experiment.device)
    step, trained = _engine_on(experiment, chosen)
    batch_size = experiment.batch.global_size
    characters = batch_size * experiment.model.window_length
    console, meter = Console(), SpeedMeter(characters, trained.engine_config.precision, trained.mesh)
    total, num_layers = experiment.training.total_steps, experiment.model.num_layers
    for moment, first in (("all layers predicting", 0), ("all intermediate layers silent", total - 1)):
        weights = layer_weights(experiment.auxiliary, num_layers, total, first)
        step(0, weights)
        _wait_for(chosen)
        meter.restart()
        for number in range(steps):
            step(number, weights)
            meter.count(step_flops(experiment.model, experiment.auxiliary, batch_size, sum(w > 0 for w in weights)))
        _wait_for(chosen)
        report = meter.report(steps, float("nan"), 0.0, None, None)
        name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else "CPU"
        share = "" if report.device_share is None else f" ({report.device_share:.0%} of peak)"
        console.print(
            f"{experiment.name} on {name}, {moment}: {report.characters_per_second:,.0f} characters/s, "
            f"{report.flops_per_second / 1e12:.2f} TFLOP/s{share}, {report.memory_bytes / 2**30:.2f} GiB"
        )


@app.command()
def saving(
    source: Source,
    overrides: Overrides = None,
    rounds: Rounds = 3,
    steps: Steps = 3,
    folder: Annotated[Path, typer.Option(help="on the disk to measure; what is written is deleted")] = Path(),
) -> None:
    """Seconds that a checkpoint stops training, and until it is safe on disk, while one process trains on."""
    from megachar.base.device import choose_device
    from megachar.data.vocabulary import ByteVocabulary
    from megachar.parallel.state import EngineState
    from megachar.runs.checkpoints.format import DataRecord
    from megachar.runs.checkpoints.saving import CheckpointSaver, SavedCheckpoint
    from megachar.runs.folder import RunFolder

    experiment = load_experiment(source, [*(overrides or []), *ONE_PROCESS])
    chosen, console = choose_device(experiment.device), Console()
    step, trained = _engine_on(experiment, chosen)
    state, saved = EngineState(trained, experiment.optimizer.state_keys), list[SavedCheckpoint]()

    def timed_step(number: int) -> float:
        since = time.perf_counter()
        step(number, _weights(experiment))
        _wait_for(chosen)
        return time.perf_counter() - since

    timed_step(0)
    alone = [timed_step(number) for number in range(steps)]
    before, meanwhile = _host_memory(), list[float]()
    with tempfile.TemporaryDirectory(dir=folder) as name:
        data = DataRecord(fingerprint="0", description="random symbols")
        saver = CheckpointSaver(RunFolder(Path(name)), state, experiment, data, ByteVocabulary(), saved.append)
        for number in range(1, rounds + 1):
            saver.save(number)
            while len(saved) < number:
                meanwhile.append(timed_step(number))
                saver.poll()
    table = Table("save", "training stood still", "safe on disk after")
    for each in saved:
        table.add_row(str(each.step), f"{each.standstill_seconds:.3f} s", f"{each.seconds:.2f} s")
    console.print(f"{experiment.name}, a checkpoint of {saved[0].num_bytes / 1e6:,.0f} MB, on {chosen.type}", table)
    console.print(
        f"a step: {statistics.median(alone):.3f} s, and {statistics.median(meanwhile):.3f} s while one is written; "
        f"peak of host memory: {before / 1e9:.2f} GB before, {_host_memory() / 1e9:.2f} GB with saving"
    )


def _host_memory() -> int:
    """Peak bytes of this process in memory so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def compare(contenders: list["Contender"], rounds: int, steps: int, goal: float) -> None:
    """Let all take turns; print characters/s and the ratios to the first's, turn by turn. The goal is the second's."""
    console = Console()
    rates: list[list[float]] = []
    try:
        for contender in contenders:
            contender.start()
            contender.turn(1)  # warm up
        for number in track(range(rounds), "taking turns", console=console, disable=not console.is_terminal):
            rates.append([contender.turn(steps, number) for contender in contenders])
    finally:
        for contender in contenders:
            contender.stop()
    table = Table("", "characters/s: lowest", "median", "highest")
    for contender, column in zip(contenders, zip(*rates, strict=True), strict=True):
        table.add_row(contender.name, *(f"{value:,.0f}" for value in _spread(column)))
    medians = []
    for i, contender in enumerate(contenders[1:], start=1):
        ratios = _spread([rate[i] / rate[0] for rate in rates])
        medians.append(ratios[1])
        table.add_row(f"{contender.name} / {contenders[0].name}", *(f"{value:.3f}" for value in ratios))
    console.print(table)
    verdict = "reached" if medians[0] >= goal else "missed"
    console.print(f"goal {goal:.3f}: {verdict} by the median of {rounds} pairs, {medians[0]:.3f}")


@dataclass
class Contender:
    """A number of processes that train steps on demand."""

    name: str
    work: Callable[[Experiment], Callable[[int], None]]
    """On a process: prepare, and return what takes one step."""
    experiment: Experiment
    world_size: int
    threads: int
    independent: bool = False
    """The processes share nothing and each does the whole work."""

    def start(self) -> None:
        """Start the processes; they prepare until their first turn."""
        context, port = multiprocessing.get_context("spawn"), free_port()
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        for rank in range(self.world_size):
            ours, theirs = context.Pipe()
            own, world_size = (0, 1) if self.independent else (rank, self.world_size)
            environment = {"RANK": own, "LOCAL_RANK": own, "WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1",
                           "MASTER_PORT": port + rank if self.independent else port,
                           "OMP_NUM_THREADS": self.threads}  # fmt: skip
            arguments = (self.work, self.experiment, {k: str(v) for k, v in environment.items()}, theirs)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def turn(self, steps: int, number: int = 0) -> float:
        """Characters per second over `steps` steps; the other contenders are idle meanwhile.

        Rank r of every contender runs on core `number` + r: cores of a shared machine differ in speed, by the moment.
        """
        for rank, pipe in enumerate(self._pipes):
            pipe.send((steps, number + rank))
        seconds = [pipe.recv() for pipe in self._pipes]
        characters = steps * self.experiment.batch.global_size * self.experiment.model.window_length
        return sum(characters / own for own in seconds) if self.independent else characters / max(seconds)

    def stop(self) -> None:
        """End the processes."""
        for process in getattr(self, "_processes", []):
            process.kill()
            process.join()


def bare_loop(experiment: Experiment) -> Callable[[int], None]:
    """The single-device model under torch's optimizer, with nothing around it."""
    from megachar.families.transformer.initialization import initialize
    from megachar.families.transformer.model import Transformer
    from megachar.families.transformer.settings import TransformerConfig
    from megachar.training.optimizer import build_optimizer

    assert isinstance(experiment.model, TransformerConfig), "recurrent models: tools/benchmark_recurrent.py"
    model = initialize(Transformer(experiment.model, experiment.auxiliary), experiment.seed).train()
    optimizer = build_optimizer(experiment.optimizer, experiment.model, model.named_parameters())
    total = experiment.batch.num_micro_batches

    def step(number: int) -> None:
        optimizer.zero_grad()
        for batch in _micro_batches(experiment, number):
            loss, _ = model.losses(batch.inputs, batch.targets, experiment.auxiliary, _weights(experiment), batch.key)
            (loss / total).backward()
        optimizer.step()

    return step


def under_engine(experiment: Experiment) -> Callable[[int], None]:
    """This process's stage under DeepSpeed."""
    import torch

    step, _ = _engine_on(experiment, torch.device("cpu"))
    return lambda number: step(number, _weights(experiment))


def _engine_on(experiment: Experiment, device: Any) -> tuple[Callable[[int, tuple[float, ...]], None], Any]:
    """What trains one step with given layer weights, and the engine."""
    from megachar.parallel.mesh import start
    from megachar.parallel.topology import Topology
    from megachar.training.setup import build_engine

    parallel, rate = experiment.parallel, experiment.optimizer.learning_rate
    mesh = start(Topology(parallel.pipe, parallel.data, parallel.tensor), device)
    engine = build_engine(experiment, mesh)

    def step(number: int, weights: tuple[float, ...]) -> None:
        engine.train_step(_micro_batches(experiment, number, device), weights, rate)

    return step, engine


def _wait_for(device: Any) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def _serve(
    work: Callable[[Experiment], Callable[[int], None]], experiment: Experiment, environment: dict[str, str], pipe: Any
) -> None:
    os.environ.update(environment)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    step, done = work(experiment), 0
    import torch

    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    while True:
        try:
            steps, core = pipe.recv()
        except EOFError:
            return
        if environment["OMP_NUM_THREADS"] == "1" and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {cores[core % len(cores)]})
        since = time.perf_counter()
        for number in range(done, done + steps):
            step(number)
        done += steps
        pipe.send(time.perf_counter() - since)


def _micro_batches(experiment: Experiment, step: int, device: Any = "cpu") -> Iterator[Any]:
    import torch

    from megachar.families.recurrent.settings import RecurrentConfig
    from megachar.layers.variational import SegmentKey
    from megachar.parallel.stage import Segment
    from megachar.selftest.reference import micro_batch

    for number in range(experiment.batch.num_micro_batches):
        batch = micro_batch(experiment, step, number).to(torch.device(device))
        if isinstance(experiment.model, RecurrentConfig):
            first = number * experiment.batch.micro_size
            streams = tuple(range(first, first + experiment.batch.micro_size))
            key = SegmentKey(experiment.seed, step, streams) if experiment.model.drops_out else None
            batch = replace(batch, key=None, segment=Segment(first, 0, key))
        yield batch


def _weights(experiment: Experiment) -> tuple[float, ...]:
    """Those of the first step: every layer predicts."""
    from megachar.losses.auxiliary import layer_weights

    return layer_weights(experiment.auxiliary, experiment.model.num_layers, experiment.training.total_steps, 0)


def _spread(values: Any) -> tuple[float, float, float]:
    return min(values), statistics.median(values), max(values)


if __name__ == "__main__":
    app()
