"""How long a step takes, by part: in passes of micro-batches through stages, between replicas, and in the update."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from megachar.config.experiment import Experiment
from megachar.planning.cluster import Cluster
from megachar.planning.devices import Link
from megachar.planning.layouts import Layout
from megachar.planning.stages import Array, Stages, Works
from megachar.planning.zero import Zero

PARTS: Final = {
    "products": "matrix products",
    "moved": "memory-bound work",
    "waiting": "waiting for starts",
    "tensor": "tensor all-reduces",
    "transfers": "stage transfers",
    "bubble": "bubble",
    "zero": "ZeRO traffic",
    "update": "update",
    "fixed": "engine",
}
"""Field of `StepTime` -> what it is called."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step by part: those of the slowest stage, and what it waits for."""

    products: float
    moved: float
    waiting: float
    """For operations to be started, where that takes longer than they do."""
    tensor: float
    transfers: float
    bubble: float
    """For other stages: at the start and the end of a step, and where they are slower."""
    zero: float
    update: float
    fixed: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class StepTimes:
    """A step at several moments of training. Intermediate layers fall silent on the way."""

    start: StepTime
    half: StepTime
    average: float
    """Seconds, over all of training."""


@dataclass(frozen=True)
class _Passes:
    """Seconds of one micro-batch in each stage, forward and backward, by part: (spans, stages) each."""

    products: Array
    moved: Array
    waiting: Array
    tensor: Array

    def __add__(self, other: "_Passes") -> "_Passes":
        return _Passes(*(own + others for own, others in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def total(self) -> Array:
        return self.products + self.moved + self.waiting + self.tensor


class Clock:
    """Times layouts of one experiment on one cluster; what several have in common is computed once."""

    def __init__(self, experiment: Experiment, cluster: Cluster) -> None:
        self._experiment, self._cluster, self._device = experiment, cluster, cluster.device
        self._passes: dict[tuple[object, ...], tuple[_Passes, _Passes, _Passes]] = {}
        self._times: dict[tuple[object, ...], StepTimes] = {}

    def times(self, layout: Layout, stages: Stages, zero: Zero) -> StepTimes:
        """The steps of a layout; how many blocks are recomputed together makes no difference."""
        recomputes = layout.parallel.activation_checkpoint_interval > 0
        key = (layout.grid, layout.micro_size, str(layout.deepspeed), recomputes)
        if key not in self._times:
            self._times[key] = self._time(layout, stages, zero, recomputes)
        return self._times[key]

    def _time(self, layout: Layout, stages: Stages, zero: Zero, recomputes: bool) -> StepTimes:
        device, count = self._device, zero.micro_batches
        _, _, passes = self._passes_of(layout, stages, recomputes)
        extra, waiting, sent = self._of_gradients(layout, zero)
        transfers = self._transfers(layout, stages)
        own = passes.total + extra + waiting + sent + transfers + device.micro_batch_seconds
        passing, slowest = pass_through(own, count)
        busy = count * own[np.arange(len(slowest)), slowest]
        traffic = zero.seconds_per_step(self._cluster.data_link(layout))
        update = zero.update_seconds(device)
        totals = passing + traffic + update + device.step_seconds

        def at(span: int) -> StepTime:
            stage = slowest[span]
            return StepTime(
                products=count * float(passes.products[span, stage]),
                moved=count * float(passes.moved[span, stage] + extra[stage]),
                waiting=count * float(passes.waiting[span, stage] + waiting[stage]),
                tensor=count * float(passes.tensor[span, stage]),
                transfers=count * float(transfers[stage]),
                bubble=float(passing[span] - busy[span]),
                zero=traffic + count * float(sent[stage]),
                update=update,
                fixed=device.step_seconds + count * device.micro_batch_seconds,
            )

        return StepTimes(at(0), at(stages.spans.half), float(stages.spans.shares @ totals))

    def passes_at_start(self, layout: Layout, stages: Stages, zero: Zero) -> tuple[list[float], list[float], float]:
        """Seconds of a micro-batch's passes in each stage, forward and backward, and of one exchange between two."""
        recomputes = layout.parallel.activation_checkpoint_interval > 0
        forward, backward, _ = self._passes_of(layout, stages, recomputes)
        after = sum(self._of_gradients(layout, zero)) + self._device.micro_batch_seconds
        return forward.total[0].tolist(), (backward.total[0] + after).tolist(), self._exchange(layout, stages)

    def _of_gradients(self, layout: Layout, zero: Zero) -> tuple[Array, Array, Array]:
        """(stages,) seconds in which a micro-batch's gradients are added up, waited for, and sent."""
        moved = zero.moved_per_micro_batch / self._device.moved_bytes_per_second
        starting = zero.kernels_per_micro_batch * self._device.kernel_seconds
        sent = zero.seconds_per_micro_batch(self._cluster.data_link(layout))
        return moved, _starts(starting, moved, self._device.cpu), sent

    def _passes_of(self, layout: Layout, stages: Stages, recomputes: bool) -> tuple[_Passes, _Passes, _Passes]:
        """Forward, backward, and both."""
        link = self._cluster.tensor_link(layout)
        key = (layout.parallel.pipe, layout.parallel.tensor, layout.micro_size, recomputes, link is self._device.link)
        if key not in self._passes:
            backward = stages.backward + stages.recomputation if recomputes else stages.backward
            passes = self._seconds(stages.forward, layout, link), self._seconds(backward, layout, link)
            self._passes[key] = (*passes, passes[0] + passes[1])
        return self._passes[key]

    def _seconds(self, works: Works, layout: Layout, link: Link) -> _Passes:
        device, size = self._device, layout.parallel.tensor
        products = works.flops / device.product_flops[layout.engine.precision]
        moved = works.moved / device.moved_bytes_per_second
        waiting = _starts(works.kernels * device.kernel_seconds, products + moved, device.cpu)
        return _Passes(products, moved, waiting, ring_seconds(works.reduced, size, link, works.reductions))

    def _transfers(self, layout: Layout, stages: Stages) -> Array:
        """(stages,) seconds: a stage exchanges a hidden state and a gradient with each of its neighbors."""
        if stages.num_stages == 1:
            return np.zeros(1)
        neighbors = np.full(stages.num_stages, 2.0)
        neighbors[0] = neighbors[-1] = 1.0
        return 2 * neighbors * self._exchange(layout, stages)

    def _exchange(self, layout: Layout, stages: Stages) -> float:
        link = self._cluster.stage_link(layout)
        return self._device.exchange_seconds + link.seconds + stages.costs.handed_on / link.bytes_per_second


def pass_through(seconds: Array, count: int) -> tuple[Array, Array]:
    """How long `count` micro-batches take through all stages and back, (spans,), and which stage decides, (spans,).

    Every stage passes the first micro-batch, one stage the others, but for those that are under way above it when its
    first gradient comes: they cost what the stages above take. This is what `schedule.run_schedule` gives turn by turn
    where stages differ by a tenth or less, and never more than that.

    Args:
        seconds: of one micro-batch forward and backward in each stage, (spans, stages).
        count: micro-batches of a step, m.
    """
    num_stages = seconds.shape[1]
    above = np.arange(num_stages)[::-1]
    stages_above = np.cumsum(seconds[:, ::-1], axis=1)[:, ::-1] - seconds
    others = np.where(above < count, stages_above + (count - 1 - above) * seconds, -np.inf)
    deciding = others.argmax(axis=1)
    return seconds.sum(axis=1) + others.max(axis=1), deciding


def ring_seconds(reduced: Array, size: int, link: Link, count: Array) -> Array:
    """An all-reduce of so many bytes over `size` ranks: 2 (size - 1) / size of them pass every link.

    `count`: tensors that these bytes are reduced in.
    """
    if size == 1:
        return np.zeros_like(reduced)
    latency = 2 * (size - 1).bit_length() * link.seconds
    return count * latency + 2 * (size - 1) / size * reduced / link.bytes_per_second


def _starts(starting: Array, working: Array, on_cpu: bool) -> Array:
    """Seconds that starting operations adds: on a CPU all of it, on a GPU what work does not hide."""
    return starting if on_cpu else np.maximum(0.0, starting - working)
