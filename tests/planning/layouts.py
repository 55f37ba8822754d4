"""Layouts for tests."""

from megachar.config.deepspeed import load_engine_config
from megachar.config.experiment import Experiment
from megachar.planning.layouts import Layout


def layout_of(
    experiment: Experiment, pipe: int, tensor: int, data: int, micro_size: int, deepspeed: str, interval: int = 0
) -> Layout:
    """A layout, legal or not."""
    sizes = {"pipe": pipe, "tensor": tensor, "data": data, "activation_checkpoint_interval": interval}
    parallel = experiment.parallel.model_copy(update=sizes)
    return Layout(parallel, micro_size, deepspeed, load_engine_config(deepspeed))
