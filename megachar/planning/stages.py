"""What every pipeline stage holds and computes: sums of the layers' costs, as arrays over the stages."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from megachar.config.experiment import Experiment
from megachar.families.costs import LayerCost, ModelCosts, Passes, Share, Work, model_costs
from megachar.losses.auxiliary import silent_from
from megachar.parallel.topology import stage_blocks

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

_NOTHING = Passes()


@dataclass(frozen=True)
class Timetable:
    """Spans of training in which the same layers predict. The lower ones fall silent first."""

    shares: Array
    """(spans,) of all steps."""
    speaking: Array
    """(spans, numbered layers): 1 where an intermediate layer predicts through classifiers of its own."""
    half: int
    """The span at half of training."""


def timetable(experiment: Experiment) -> Timetable:
    """When the experiment's layers predict."""
    auxiliary, num_layers = experiment.auxiliary, experiment.model.num_layers
    total = experiment.training.total_steps
    ends = [0] * num_layers
    if auxiliary.intermediate_layers:
        for layer in range(1, num_layers):
            end = silent_from(layer, num_layers, total, auxiliary.interval_steps)
            ends[layer - 1] = min(total, math.ceil(end))
    borders = np.array(sorted({0, total, *ends}), dtype=np.float64)
    speaking = (np.array(ends)[None] > borders[:-1, None]).astype(np.float64)
    half = int(np.searchsorted(borders, total // 2, side="right")) - 1
    return Timetable(np.diff(borders) / total, speaking, half)


@dataclass(frozen=True)
class Works:
    """A pass of one micro-batch through every stage: the fields of `Work`, each (spans, stages)."""

    flops: Array
    moved: Array
    kernels: Array
    reduced: Array
    reductions: Array

    def __add__(self, other: "Works") -> "Works":
        return Works(*(own + others for own, others in zip(vars(self).values(), vars(other).values(), strict=True)))


class Stages:
    """The stages of one number of them, for one share of a micro-batch."""

    def __init__(self, experiment: Experiment, spans: Timetable, share: Share, num_stages: int) -> None:
        """Cut the layers as `parallel.topology.stage_blocks` does; `spans`: of the experiment's training."""
        self.costs: ModelCosts = model_costs(experiment.model, experiment.auxiliary, share)
        self.spans, self.share, self.num_stages = spans, share, num_stages
        layers = self.costs.layers
        numbered = [number for number, layer in enumerate(layers) if "." in layer.name]
        first, self._blocks = numbered[0], stage_blocks(len(numbered), num_stages)
        self._numbered = layers[first : numbered[-1] + 1]
        self._below, self._above = layers[:first], layers[numbered[-1] + 1 :]
        self._starts = [blocks.start for blocks in self._blocks]
        self._always = _Repeated([layer.passes for layer in self._numbered])
        self._predicting = _Repeated([layer.predicting or _NOTHING for layer in self._numbered])

    @cached_property
    def num_blocks(self) -> Array:
        """(stages,) numbered layers."""
        return np.array([len(blocks) for blocks in self._blocks], dtype=np.float64)

    @cached_property
    def parameters(self) -> Array:
        """(stages,) that one tensor rank holds."""
        return self._sum(lambda layer: layer.parameters(self.share.tensor))

    @cached_property
    def largest(self) -> float:
        """Parameters of the largest layer of all, on one tensor rank."""
        return max(layer.parameters(self.share.tensor) for layer in self.costs.layers)

    @cached_property
    def tensors(self) -> Array:
        """(stages,) tensors of parameters."""
        return self._sum(lambda layer: layer.tensors)

    @cached_property
    def kept(self) -> Array:
        """(stages,) bytes that a micro-batch keeps, without auxiliary classifiers."""
        return self._passing(lambda passes: passes.kept)

    @cached_property
    def kept_by_classifiers(self) -> Array:
        """(stages,) bytes that auxiliary classifiers keep of a micro-batch at the start of training."""
        return self._speaking(lambda passes: passes.kept)[0]

    @cached_property
    def working_outside(self) -> Array:
        """(stages,) bytes that the backward pass of what is above the numbered layers needs."""
        return self._of_the_last(max((layer.passes.working for layer in self._above), default=0.0))

    @cached_property
    def working_numbered(self) -> Array:
        """(stages,) bytes that the topmost numbered layer needs: first its classifiers, then what is below them."""
        needs = np.zeros(self.num_stages)
        for stage, blocks in enumerate(self._blocks):
            top = self._numbered[blocks.stop - 1]
            predicting = top.predicting or _NOTHING
            needs[stage] = max(predicting.working, top.passes.working - predicting.kept)
        return needs

    @cached_property
    def kept_above(self) -> Array:
        """(stages,) bytes that what is above the numbered layers keeps, and has let go of when their turn comes."""
        return self._of_the_last(sum(layer.passes.kept for layer in self._above))

    @cached_property
    def kept_outside(self) -> Array:
        """(stages,) bytes that layers without a number, which are not recomputed, keep of a micro-batch."""
        outside = self.kept_above.copy()
        outside[0] += sum(layer.passes.kept for layer in self._below)
        return outside

    @cached_property
    def forward(self) -> Works:
        """The forward pass."""
        return self._works(lambda passes: passes.forward)

    @cached_property
    def backward(self) -> Works:
        """The backward pass, without recomputation."""
        return self._works(lambda passes: passes.backward)

    @cached_property
    def recomputation(self) -> Works:
        """The forward pass of the numbered layers, once more."""
        return self._works(lambda passes: passes.forward, outside=False)

    def _of_the_last(self, value: float) -> Array:
        """(stages,) with this value in the last, and 0 in the others."""
        return np.where(np.arange(self.num_stages) == self.num_stages - 1, value, 0.0)

    def _sum(self, of: Callable[[LayerCost], float]) -> Array:
        """(stages,) sums over the layers of a stage."""
        sums = np.add.reduceat(np.array([of(layer) for layer in self._numbered], dtype=np.float64), self._starts)
        sums[0] += sum(of(layer) for layer in self._below)
        sums[-1] += sum(of(layer) for layer in self._above)
        return sums

    def _passing(self, of: Callable[[Passes], float], outside: bool = True) -> Array:
        """(stages,) sums over what layers cost whether they predict or not; `outside`: those without a number, too."""
        sums = np.add.reduceat(self._always.each(of), self._starts)
        if outside:
            sums[0] += sum(of(layer.passes) for layer in self._below)
            sums[-1] += sum(of(layer.passes) for layer in self._above)
        return sums

    def _speaking(self, of: Callable[[Passes], float]) -> Array:
        """(spans, stages) sums over the auxiliary classifiers that predict."""
        return np.add.reduceat(self.spans.speaking * self._predicting.each(of), self._starts, axis=1)

    def _works(self, of: Callable[[Passes], Work], outside: bool = True) -> Works:
        def both(name: str) -> Array:
            def figure(passes: Passes) -> float:
                return float(getattr(of(passes), name))

            return self._passing(figure, outside) + self._speaking(figure)

        return Works(*(both(name) for name in Works.__dataclass_fields__))


class _Repeated:
    """Passes of many layers, most of which are one and the same object: each is asked but once."""

    def __init__(self, passes: Sequence[Passes]) -> None:
        distinct = {id(one): one for one in passes}
        places = {key: place for place, key in enumerate(distinct)}
        self._distinct, self._places = list(distinct.values()), np.array([places[id(one)] for one in passes])

    def each(self, of: Callable[[Passes], float]) -> Array:
        """(layers,) of a figure."""
        figures = np.array([of(one) for one in self._distinct], dtype=np.float64)
        return figures[self._places]
