"""How much memory each stage takes, by part, at the start of training, when most layers predict."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from megachar.planning.devices import Device
from megachar.planning.layouts import Layout
from megachar.planning.stages import Array, Stages
from megachar.planning.zero import Zero

PARTS: Final = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "activations",
    "classifiers": "auxiliary classifiers",
    "pipeline": "pipeline buffers",
    "communication": "communication",
    "reserved": "libraries",
}
"""Field of `Memory` -> what it is called."""


@dataclass(frozen=True)
class Memory:
    """Bytes of the fullest device by part, when it is fullest."""

    weights: float
    gradients: float
    optimizer: float
    """Masters and the optimizer's state."""
    activations: float
    classifiers: float
    """Activations that auxiliary classifiers keep."""
    pipeline: float
    """Hidden states and gradients on their way between stages."""
    communication: float
    """Buffers in which gradients and weights are sent."""
    reserved: float
    """Contexts, libraries, fragments."""
    stage: int
    """The pipeline stage of this device."""

    @cached_property
    def total(self) -> float:
        """All of it."""
        return sum(getattr(self, part) for part in PARTS)


def fullest(layout: Layout, stages: Stages, zero: Zero, device: Device) -> Memory:
    """The memory of the fullest device: as a backward pass begins, as it ends, or in the update."""
    activations, classifiers, buffers = _activations(layout, stages, zero)
    of_group, nothing = _share_of_group(layout, stages), np.zeros(stages.num_stages)
    group = (stages.kept - stages.kept_outside) * of_group + stages.working_numbered
    of_classifiers = stages.kept_by_classifiers * of_group
    moments = (
        (zero.in_backward, activations, classifiers),
        (zero.at_the_end_of_backward, group, of_classifiers),
        (zero.in_update, nothing, nothing),
    )
    totals = [held.total + kept + predicting + buffers for held, kept, predicting in moments]
    moment = max(range(len(moments)), key=lambda number: totals[number].max())
    held, kept, predicting = moments[moment]
    stage = int(totals[moment].argmax())
    return Memory(
        weights=float(held.weights[stage]),
        gradients=float(held.gradients[stage]),
        optimizer=float(held.optimizer[stage]),
        activations=float(kept[stage]),
        classifiers=float(predicting[stage]),
        pipeline=float(buffers[stage]),
        communication=float(held.communication[stage]),
        reserved=device.reserved_bytes,
        stage=stage,
    )


def _share_of_group(layout: Layout, stages: Stages) -> Array:
    """(stages,) blocks that are recomputed together, or one alone, of all blocks of a stage."""
    return np.minimum(1.0, max(1, layout.parallel.activation_checkpoint_interval) / stages.num_blocks)


def _activations(layout: Layout, stages: Stages, zero: Zero) -> tuple[Array, Array, Array]:
    """(stages,) bytes each: what blocks keep, what their classifiers keep, and pipeline buffers."""
    count, hidden, flying = stages.num_stages, stages.costs.handed_on, zero.flying
    interval, blocks, outside = layout.parallel.activation_checkpoint_interval, stages.num_blocks, stages.kept_outside
    if interval:
        of_group = _share_of_group(layout, stages)
        waiting = flying * (np.ceil(blocks / interval) * hidden + outside)
        recomputed = (stages.kept - outside) * of_group
        classifiers = stages.kept_by_classifiers * of_group
    else:
        waiting, recomputed, classifiers = flying * stages.kept, np.zeros(count), flying * stages.kept_by_classifiers
    # The backward pass begins above the numbered layers. When it comes to them, it has let go of what is kept above.
    at_the_top = waiting + stages.working_outside + (0.0 if interval else classifiers)
    below_it = waiting - stages.kept_above + recomputed + stages.working_numbered + classifiers
    activations = np.maximum(at_the_top, below_it) - classifiers
    return activations, classifiers, hidden * zero.slots
