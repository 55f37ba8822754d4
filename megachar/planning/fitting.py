"""A device's figures from steps that were timed: those under which the plan's times come closest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from megachar.config.deepspeed import load_engine_config
from megachar.config.experiment import Experiment
from megachar.planning.cluster import Cluster
from megachar.planning.devices import Device, Precision
from megachar.planning.layouts import Layout
from megachar.planning.planner import Planner
from megachar.planning.stages import Array

_PULL: Final = 0.05
"""Weight of an e-fold from where a figure started, in relative errors of a time: it decides what no time tells."""


@dataclass(frozen=True)
class Timed:
    """A step that was timed."""

    experiment: Experiment
    """With its layout."""
    seconds: float
    silent: bool = False
    """Whether the step is one after all intermediate layers have fallen silent, and not the first."""


def predicted_seconds(experiment: Experiment, device: Device, silent: bool = False) -> float:
    """A step of the experiment in its own layout, on devices of one machine: the first, or one late in training."""
    engine = load_engine_config(experiment.deepspeed)
    layout = Layout(experiment.parallel, experiment.batch.micro_size, experiment.deepspeed, engine)
    times = Planner(experiment, Cluster.of(device, device.per_node)).times(layout)
    return (times.half if silent else times.start).total


def fit_device(start: Device, timed: Sequence[Timed]) -> Device:
    """The device whose predicted times have the least squared relative errors.

    Args:
        start: where the search begins, and what stays where the times say nothing.
        timed: steps, in one precision or several.
    """
    from scipy.optimize import least_squares

    precisions = sorted({load_engine_config(one.experiment.deepspeed).precision for one in timed})
    origin = _logarithms(start, precisions)
    seconds = np.log([one.seconds for one in timed])

    def misses(logarithms: Array) -> Array:
        device = _with(start, precisions, logarithms)
        predicted = np.log([predicted_seconds(one.experiment, device, one.silent) for one in timed])
        return np.concatenate([predicted - seconds, _PULL * (logarithms - origin)])

    return _with(start, precisions, least_squares(misses, origin, max_nfev=30).x)


_FIGURES: Final[tuple[tuple[str, Callable[[Device], float]], ...]] = (
    ("moved_bytes_per_second", lambda device: device.moved_bytes_per_second),
    ("kernel_seconds", lambda device: device.kernel_seconds),
    ("step_seconds", lambda device: device.step_seconds),
    ("micro_batch_seconds", lambda device: device.micro_batch_seconds),
    ("exchange_seconds", lambda device: device.exchange_seconds),
)


def _logarithms(device: Device, precisions: Sequence[Precision]) -> Array:
    """Of all figures that are fitted."""
    products = [device.product_flops[precision] for precision in precisions]
    figures = [read(device) for _, read in _FIGURES]
    return np.log([*products, *figures, device.link.bytes_per_second, device.link.seconds])


def _with(device: Device, precisions: Sequence[Precision], logarithms: Array) -> Device:
    """The device with these figures."""
    values = np.exp(logarithms).tolist()
    products = dict(zip(precisions, values, strict=False))
    figures, (rate, latency) = values[len(precisions) : -2], values[-2:]
    update = {name: figure for (name, _), figure in zip(_FIGURES, figures, strict=True)}
    link = device.link.model_copy(update={"bytes_per_second": rate, "seconds": latency})
    return device.model_copy(update={**update, "link": link, "product_flops": {**device.product_flops, **products}})
