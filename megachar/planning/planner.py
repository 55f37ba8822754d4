"""The plan of an experiment on a cluster: every layout, judged by its checks, its memory and its time."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from megachar.base.errors import ConfigError
from megachar.config.experiment import Experiment
from megachar.families.costs import Share
from megachar.families.counting import step_flops
from megachar.planning.cluster import Cluster
from megachar.planning.layouts import Layout, all_layouts
from megachar.planning.memory import Memory, fullest
from megachar.planning.schedule import draw_schedule, run_schedule
from megachar.planning.stages import Stages, Timetable, timetable
from megachar.planning.times import Clock, StepTimes
from megachar.planning.zero import Zero, bytes_per_number


@dataclass(frozen=True)
class Estimate:
    """What is expected of a layout that fits."""

    layout: Layout
    memory: Memory
    """Of the fullest device."""
    times: StepTimes
    characters_per_second: float
    """Averaged over training."""
    share_of_peak: float | None
    """Of the data sheet's operations, averaged over training; None where the device's peak is not known."""
    days: float
    """To the end of training, without validation and checkpoints."""

    @property
    def device_hours(self) -> float:
        """Over all devices of the layout."""
        return 24 * self.days * self.layout.parallel.world_size


@dataclass(frozen=True)
class Refusal:
    """A layout that cannot be had."""

    layout: Layout
    reason: str
    excess_bytes: float = 0.0
    """Of the memory of the fullest device over what there is; 0 where the checks refuse it."""


@dataclass(frozen=True)
class Plan:
    """All layouts."""

    experiment: Experiment
    cluster: Cluster
    estimates: tuple[Estimate, ...]
    """Of those that fit, the fastest first; of equally fast ones, that on fewer devices, then that with less memory."""
    refusals: tuple[Refusal, ...]

    @property
    def best(self) -> Estimate:
        """The fastest; ConfigError where none fits."""
        if not self.estimates:
            raise ConfigError(_none_fits(self))
        return self.estimates[0]

    def best_of_each_grid(self) -> list[Estimate]:
        """For each pipe x tensor x data the fastest."""
        found: dict[tuple[int, int, int], Estimate] = {}
        for estimate in self.estimates:
            found.setdefault(estimate.layout.grid, estimate)
        return list(found.values())

    def reasons(self) -> list[tuple[str, int]]:
        """Why layouts were refused, each with how many: a sentence with the numbers of one of them as an example."""
        counts: Counter[str] = Counter()
        examples: dict[str, Refusal] = {}
        for refusal in self.refusals:
            kind = "memory" if refusal.excess_bytes else re.sub(r"\d[\d,]*", "#", refusal.reason)
            counts[kind] += 1
            least = examples.setdefault(kind, refusal)
            if refusal.excess_bytes < least.excess_bytes:
                examples[kind] = refusal
        return [(examples[kind].reason, count) for kind, count in counts.most_common()]


def make_plan(experiment: Experiment, cluster: Cluster, given: Iterable[str] = ()) -> Plan:
    """Judge every layout.

    Args:
        experiment: what is to be trained; its own layout need not fit.
        cluster: on which devices.
        given: settings of `layouts.LAYOUT_SETTINGS` that stay as the experiment has them.

    Raises:
        ConfigError: no layout passes the checks, or the device cannot compute in the experiment's precision.
    """
    planner = Planner(experiment, cluster)
    estimates: list[Estimate] = []
    refusals: list[Refusal] = []
    for layout, reason in all_layouts(experiment, cluster.devices, given):
        judged = planner.judge(layout) if reason is None else Refusal(layout, reason)
        if isinstance(judged, Estimate):
            estimates.append(judged)
        else:
            refusals.append(judged)
    estimates.sort(key=lambda estimate: (
        round(estimate.times.average, 9), estimate.layout.parallel.world_size, estimate.memory.total
    ))  # fmt: skip
    plan = Plan(experiment, cluster, tuple(estimates), tuple(refusals))
    if not any(refusal.excess_bytes for refusal in refusals) and not estimates:
        raise ConfigError(_none_fits(plan))
    return plan


def draw_plan(plan: Plan, path: Path) -> Path:
    """Draw a step of the best layout's pipeline at the start of training."""
    return Planner(plan.experiment, plan.cluster).draw(plan.best.layout, path)


class Planner:
    """Judges layouts; what several have in common is computed once."""

    def __init__(self, experiment: Experiment, cluster: Cluster) -> None:
        self.experiment, self.cluster = experiment, cluster
        self._spans = timetable(experiment)
        self._clock = Clock(experiment, cluster)
        self._stages: dict[tuple[int, ...], Stages] = {}
        self._zeros: dict[tuple[object, ...], Zero] = {}
        self._flops = _average_flops(experiment, self._spans)

    def judge(self, layout: Layout) -> Estimate | Refusal:
        """What is expected of a legal layout, or by how much it is too large."""
        device, precision = self.cluster.device, layout.engine.precision
        if precision not in device.product_flops:
            raise ConfigError(
                f"{device.description} has no product_flops of {precision} in its file, and {layout.deepspeed} "
                f"computes in it; add them, or set deepspeed= to a JSON of another precision"
            )
        stages, zero = self._parts_of(layout)
        memory = fullest(layout, stages, zero, device)
        excess = memory.total - device.memory_bytes
        if excess > 0:
            reason = (
                f"the memory of stage {memory.stage} takes {memory.total / 1e9:.1f} GB, {excess / 1e9:.1f} GB more "
                f"than the {device.memory_bytes / 1e9:.1f} GB of a device ({describe(layout)})"
            )
            return Refusal(layout, reason, excess)
        return self._estimate(layout, memory, self._clock.times(layout, stages, zero))

    def draw(self, layout: Layout, path: Path) -> Path:
        """The picture of a layout's step."""
        stages, zero = self._parts_of(layout)
        forward, backward, exchange = self._clock.passes_at_start(layout, stages, zero)
        passes = run_schedule(forward, backward, exchange, zero.micro_batches)
        return draw_schedule(passes, f"{self.experiment.name}: {describe(layout)}", path)

    def times(self, layout: Layout) -> StepTimes:
        """The steps of a layout, whether it fits or not."""
        return self._clock.times(layout, *self._parts_of(layout))

    def memory(self, layout: Layout) -> Memory:
        """The memory of its fullest device, whether there is as much or not."""
        return fullest(layout, *self._parts_of(layout), self.cluster.device)

    def _parts_of(self, layout: Layout) -> tuple[Stages, Zero]:
        """What is the same however many blocks are recomputed together."""
        pipe, tensor, _ = layout.grid
        width = bytes_per_number(layout.engine)
        stages_key = (pipe, tensor, layout.micro_size, width)
        if stages_key not in self._stages:
            share = Share(layout.micro_size, tensor, width, self.cluster.device.cpu)
            self._stages[stages_key] = Stages(self.experiment, self._spans, share, pipe)
        stages = self._stages[stages_key]
        zero_key = (layout.grid, layout.micro_size, str(layout.deepspeed))
        if zero_key not in self._zeros:
            self._zeros[zero_key] = Zero(self.experiment, layout, stages)
        return stages, self._zeros[zero_key]

    def _estimate(self, layout: Layout, memory: Memory, times: StepTimes) -> Estimate:
        experiment = self.experiment
        characters = experiment.batch.global_size * experiment.model.window_length
        peak = self.cluster.device.peak_flops.get(layout.engine.precision)
        share = self._flops / times.average / peak / layout.parallel.world_size if peak else None
        days = experiment.training.total_steps * times.average / 86_400
        return Estimate(layout, memory, times, characters / times.average, share, days)


def _average_flops(experiment: Experiment, spans: Timetable) -> float:
    """Operations of a step, averaged over training."""
    predicting = 1.0 + float(spans.shares @ spans.speaking.sum(axis=1))
    return step_flops(experiment.model, experiment.auxiliary, experiment.batch.global_size, predicting)


def describe(layout: Layout) -> str:
    """A layout in a few words."""
    pipe, tensor, data = layout.grid
    interval = layout.parallel.activation_checkpoint_interval
    recomputed = f", recomputing {interval} blocks at a time" if interval else ""
    return (
        f"pipe {pipe} x tensor {tensor} x data {data}, {layout.deepspeed}, micro-batch {layout.micro_size}{recomputed}"
    )


def _none_fits(plan: Plan) -> str:
    devices = plan.cluster.devices
    tried = f"none of {len(plan.refusals):,} layouts on {devices:,} device{'s' if devices > 1 else ''} can be had"
    reasons = "; ".join(f"{count:,} times: {reason}" for reason, count in plan.reasons()[:3])
    return f"{tried}; {reasons}" if reasons else f"{tried}: what is given leaves none to try; give less of the layout"
