"""`megachar plan` against reality on CPUs: layouts of a small model, their memory and time foretold and measured.

    python -m tests.experiments.plan_reality

Memory is what torch allocates on the fullest rank, engine included, at its peak in the second step, garbage of the
first one collected; nothing is fitted to it. Time is that of the fastest step of rounds in which all layouts take
turns, since others may share the machine; a device's figures are fitted to the layouts marked `fitted`, four at most,
and errors are of the others. At the end, a pipeline of
stages that sleep shows whether the schedule is DeepSpeed's. Buckets of reduction are made small, since those that ship
take 2 GB and would hide the model.
"""

import argparse
import gc
import json
import statistics
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import kendalltau

from megachar.config.checks import check_experiment
from megachar.config.deepspeed import DS_CONFIGS, load_engine_config
from megachar.config.experiment import Experiment
from megachar.planning.cluster import Cluster
from megachar.planning.devices import Device, load_device
from megachar.planning.fitting import Timed, fit_device, predicted_seconds
from megachar.planning.layouts import Layout
from megachar.planning.memory import Memory
from megachar.planning.planner import Planner
from megachar.planning.schedule import run_schedule
from tests.parallel.pool import RankPool

MODEL = {"num_layers": 6, "width": 128, "num_heads": 4, "feed_forward_width": 512, "context": 128}
WINDOWS = 8
"""Of a step."""
BUCKET = 200_000
"""Numbers in a bucket of reduction."""
STEPS, WARM = 6, 2


@dataclass(frozen=True)
class Case:
    """A layout, and whether the device is fitted to it."""

    deepspeed: str
    grid: tuple[int, int, int]
    micro_size: int
    interval: int = 0
    fitted: bool = False

    @property
    def name(self) -> str:
        """In a few words."""
        recomputed = f", recomputing {self.interval}" if self.interval else ""
        return f"{'x'.join(map(str, self.grid))} {self.deepspeed}, micro-batch {self.micro_size}{recomputed}"

    @property
    def experiment(self) -> Experiment:
        """What is trained."""
        raw = json.loads((DS_CONFIGS / f"{self.deepspeed}.json").read_text(encoding="utf-8"))
        if raw["zero_optimization"]["stage"]:
            raw["zero_optimization"]["reduce_bucket_size"] = BUCKET
        pipe, tensor, data = self.grid
        parallel = {"pipe": pipe, "tensor": tensor, "data": data, "activation_checkpoint_interval": self.interval}
        experiment = Experiment.model_validate({
            "model": MODEL, "batch": {"micro_size": self.micro_size, "global_size": WINDOWS}, "parallel": parallel,
            "deepspeed": {"path": f"/{self.deepspeed}.json", "content": raw}, "optimizer": {"name": "adamw"},
        })  # fmt: skip
        check_experiment(experiment)
        return experiment


CASES = (
    Case("fp32", (1, 1, 1), 8, fitted=True), Case("fp32", (1, 1, 1), 4), Case("fp32", (1, 1, 1), 1),
    Case("fp32", (1, 1, 1), 8, interval=1), Case("fp32", (1, 1, 1), 4, interval=3), Case("fp32_zero1", (1, 1, 1), 4),
    Case("bf16_zero1", (1, 1, 1), 8), Case("bf16_zero1", (1, 1, 1), 2, fitted=True), Case("bf16_zero2", (1, 1, 1), 4),
    Case("fp32", (1, 1, 2), 4), Case("fp32", (1, 1, 2), 1, fitted=True), Case("fp32_zero1", (1, 1, 2), 2),
    Case("fp32_zero2", (1, 1, 2), 4), Case("bf16_zero1", (1, 1, 2), 4), Case("fp32_zero3", (1, 1, 2), 4),
    Case("fp32", (2, 1, 1), 1), Case("fp32", (2, 1, 1), 4), Case("fp32", (2, 1, 1), 2, interval=1),
    Case("fp32_zero1", (2, 1, 1), 2), Case("bf16_zero1", (2, 1, 1), 2), Case("fp32", (1, 2, 1), 8),
    Case("fp32", (1, 2, 1), 2, fitted=True), Case("bf16_zero1", (1, 2, 1), 4),
)  # fmt: skip


def engine_of(experiment: Experiment) -> tuple[Any, Any]:
    """On a rank: the engine, and what takes a step."""
    import torch

    from megachar.parallel.mesh import start
    from megachar.parallel.topology import Topology
    from megachar.selftest.reference import micro_batch, weights_at
    from megachar.training.setup import build_engine

    parallel = experiment.parallel
    mesh = start(Topology(parallel.pipe, parallel.data, parallel.tensor), torch.device("cpu"))
    engine = build_engine(experiment, mesh)
    own = range(mesh.at.data, experiment.batch.num_micro_batches, parallel.data)
    weights = weights_at(experiment, 0)

    def step(number: int) -> None:
        batches = [micro_batch(experiment, number, one) for one in own]
        engine.train_step(batches, weights, experiment.optimizer.learning_rate)

    return engine, step


def peak_case(values: dict[str, Any]) -> int:
    """On a rank: the most bytes that torch holds in the second step."""
    import torch.distributed as dist
    from torch.profiler import ProfilerActivity, profile

    dist.all_reduce = outside_torch(dist.all_reduce)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        _, step = engine_of(Experiment.model_validate(values))
        step(0)
        gc.collect()
        second = time.time_ns()
        step(1)
    assert recorded.profiler is not None
    events = [*flattened(recorded.profiler.kineto_results.experimental_event_tree())]
    allocations = [(event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size)
                   for event in events if hasattr(event.extra_fields, "alloc_size")]  # fmt: skip
    return peak_of(sorted(allocations), second)


def outside_torch(reduce: Callable[..., Any]) -> Callable[..., Any]:
    """An all-reduce on memory of numpy's: gloo's threads free tensors late, which the profiler does not see."""
    import torch
    import torch.distributed as dist

    def all_reduce(tensor: torch.Tensor, op: Any = dist.ReduceOp.SUM, group: Any = None, async_op: bool = False) -> Any:
        if async_op or not tensor.is_contiguous():
            return reduce(tensor, op, group, async_op)
        flat = tensor.detach().view(-1)
        aside = torch.from_numpy(flat.view(torch.uint8).numpy().copy()).view(tensor.dtype)
        reduce(aside, op, group)
        flat.copy_(aside)
        return None

    return all_reduce


def flattened(events: Sequence[Any]) -> Iterator[Any]:
    """Events and all in them."""
    for event in events:
        yield event
        yield from flattened(event.children)


def peak_of(allocations: Sequence[tuple[int, int, int]], since: int) -> int:
    """The most bytes held at once after a time: (time, address, bytes), in order; what is freed has negative bytes.

    What other threads free, such as gloo's, is not recorded: it is gone at the latest when its place is taken again.
    """
    held, starts = dict[int, int](), list[int]()
    total, peak = 0, 0
    for when, address, size in allocations:
        first = bisect_left(starts, address)
        if first and starts[first - 1] + held[starts[first - 1]] > address:
            first -= 1
        last = bisect_left(starts, address + max(abs(size), 1))
        for start in starts[first:last]:
            total -= held.pop(start)
        del starts[first:last]
        if size > 0:
            held[address] = size
            starts.insert(first, address)
            total += size
        peak = max(peak, total) if when >= since else 0
    return peak


def time_case(values: dict[str, Any]) -> float:
    """On a rank: seconds of the fastest step, since others may share the machine."""
    import torch.distributed as dist

    _, step = engine_of(Experiment.model_validate(values))
    for number in range(WARM):
        step(number)
    seconds = []
    for number in range(STEPS):
        dist.barrier()
        since = time.perf_counter()
        step(number)
        dist.barrier()
        seconds.append(time.perf_counter() - since)
    return min(seconds)


def foretold_memory(experiment: Experiment, device: Device) -> Memory:
    """Of the fullest rank."""
    engine = load_engine_config(experiment.deepspeed)
    layout = Layout(experiment.parallel, experiment.batch.micro_size, experiment.deepspeed, engine)
    return Planner(experiment, Cluster.of(device, 2)).memory(layout)


def compare_memory(cases: Sequence[Case]) -> None:
    """Print what was foretold and what was allocated."""
    device, errors = load_device("cpu"), []
    print(f"{'memory':50} {'foretold':>10} {'measured':>10}  error")
    for case in cases:
        experiment = case.experiment
        foretold = foretold_memory(experiment, device).total
        measured = max(RankPool(experiment.parallel.world_size).run(peak_case, experiment.model_dump()))
        errors.append(abs(foretold / measured - 1))
        print(f"{case.name:50} {foretold / 1e6:7.2f} MB {measured / 1e6:7.2f} MB {foretold / measured - 1:+7.1%}",
              flush=True)  # fmt: skip
    print(f"memory of {len(errors)} layouts, none of them fitted: {statistics.mean(errors):.1%} off on average, "
          f"{max(errors):.1%} at most\n")  # fmt: skip


def compare_times(cases: Sequence[Case], rounds: int, output: str | None) -> None:
    """Print what was foretold and what was measured."""
    seconds: dict[Case, list[float]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            size = case.experiment.parallel.world_size
            seconds[case].append(max(RankPool(size).run(time_case, case.experiment.model_dump())))
    measured = {case: min(own) for case, own in seconds.items()}
    if output:
        with open(output, "w", encoding="utf-8") as file:  # noqa: PTH123
            json.dump({case.name: seconds[case] for case in cases}, file)
    report_times(measured)


def report_times(measured: dict[Case, float]) -> None:
    """Fit the device to the cases that are marked so, and print the errors of the others."""
    fitted = [Timed(case.experiment, one) for case, one in measured.items() if case.fitted]
    device = fit_device(load_device("cpu"), fitted)
    foretold = {case: predicted_seconds(case.experiment, device) for case in measured}
    print(f"{'time':50} {'foretold':>10} {'measured':>10}  error")
    for case, one in measured.items():
        mark = " (fitted)" if case.fitted else ""
        print(
            f"{case.name:50} {1e3 * foretold[case]:7.1f} ms {1e3 * one:7.1f} ms {foretold[case] / one - 1:+7.1%}{mark}"
        )
    others = [case for case in measured if not case.fitted]
    errors = [abs(foretold[case] / measured[case] - 1) for case in others]
    tau = kendalltau([foretold[case] for case in others], [measured[case] for case in others]).statistic
    print(f"time of the {len(others)} layouts that were not fitted: {statistics.mean(errors):.1%} off on average, "
          f"{max(errors):.1%} at most; Kendall's tau of their order {tau:.2f}")  # fmt: skip
    print(f"fitted: {device.model_dump(exclude={'description', 'peak_flops', 'network', 'host'})}\n")


def sleeping_case(stages: int, micro_batches: int, forward: float, backward: float) -> float:
    """On a rank: seconds of a step of DeepSpeed's pipeline whose stages only sleep."""
    import torch
    import torch.distributed as dist

    from megachar.config.deepspeed import render_deepspeed_config
    from megachar.parallel.engine import PipelineTrainingEngine
    from megachar.parallel.mesh import start
    from megachar.parallel.stage import Stage
    from megachar.parallel.topology import Topology

    class Sleep(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, hidden: torch.Tensor) -> torch.Tensor:
            time.sleep(forward)
            return hidden.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            time.sleep(backward)
            return gradients[0]

    class Sleeper(Stage):
        def __init__(self, config: Any, first: bool, last: bool) -> None:
            super().__init__(config, 1)
            self.weight, self.first, self.last = torch.nn.Parameter(torch.ones(8)), first, last
            self.weight.tensor_model_parallel = True  # type: ignore[attr-defined]

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            hidden = torch.ones(8) * self.weight if self.first else hidden * self.weight
            hidden = Sleep.apply(hidden)
            return hidden.sum() if self.last else hidden

    mesh = start(Topology(stages, 1, 1), torch.device("cpu"))
    experiment = Experiment.model_validate({
        "model": {**MODEL, "num_layers": stages}, "batch": {"micro_size": 1, "global_size": micro_batches},
        "parallel": {"pipe": stages}, "deepspeed": "fp32",
    })  # fmt: skip
    stage = Sleeper(experiment.model, mesh.at.pipe == 0, mesh.at.pipe == stages - 1)
    optimizer = torch.optim.SGD(stage.parameters(), lr=0.0)
    config = load_engine_config("fp32")
    engine = PipelineTrainingEngine(stage, optimizer, config, render_deepspeed_config(experiment), mesh)
    seconds = []
    for _ in range(3):
        dist.barrier()
        since = time.perf_counter()
        engine.train_step([], (), 0.0)
        dist.barrier()
        seconds.append(time.perf_counter() - since)
    return min(seconds)


def compare_schedules() -> None:
    """Print how long steps of pipelines that sleep take, by `run_schedule` and under DeepSpeed."""
    print(f"{'a pipeline of stages that sleep':50} {'foretold':>10} {'measured':>10}  error")
    for stages, micro_batches, forward, backward in ((2, 4, 0.02, 0.04), (4, 8, 0.02, 0.04), (4, 2, 0.03, 0.03),
                                                     (6, 12, 0.02, 0.06)):  # fmt: skip
        passes = run_schedule([forward] * stages, [backward] * stages, 0.0, micro_batches)
        foretold = max(one.end for one in passes)
        measured = max(RankPool(stages).run(sleeping_case, stages, micro_batches, forward, backward))
        name = f"{stages} stages, {micro_batches} micro-batches of {1e3 * forward:.0f} + {1e3 * backward:.0f} ms"
        print(
            f"{name:50} {1e3 * foretold:7.0f} ms {1e3 * measured:7.0f} ms {foretold / measured - 1:+7.1%}", flush=True
        )


def main() -> int:
    """Compare memory, times, and schedules."""
    parser = argparse.ArgumentParser(description="Compare megachar plan with what is measured here.")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every layout when times are measured")
    parser.add_argument("--only", choices=("memory", "times", "schedules"), help="one of the three")
    parser.add_argument("--like", default="", help="only layouts whose names have this in them")
    parser.add_argument("--output", help="keep the measured times here, as JSON")
    given = parser.parse_args()
    cases = [case for case in CASES if given.like in case.name]
    if given.only in (None, "memory"):
        compare_memory(cases)
    if given.only in (None, "times"):
        compare_times(cases, given.rounds, given.output)
    if given.only in (None, "schedules"):
        compare_schedules()
    return 0


if __name__ == "__main__":
    sys.exit(main())
