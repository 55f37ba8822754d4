"""What ranks do to be compared with the single-device reference: train a few steps on its random micro-batches."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from megachar.config.checks import check_experiment
from megachar.config.experiment import Experiment
from megachar.parallel.mesh import start
from megachar.parallel.state import EngineState
from megachar.parallel.topology import Topology
from megachar.selftest.reference import micro_batch, weights_at
from megachar.training.setup import build_engine

SMALL = {"num_layers": 4, "width": 32, "num_heads": 2, "feed_forward_width": 64, "context": 16}
SGD = {"name": "sgd", "learning_rate": 0.5, "momentum": 0.9}


def small_experiment(**sections: Any) -> Experiment:
    """A model of 4 layers under SGD, 4 micro-batches a step, clipping off; sections given are merged in."""
    model = {**SMALL, **sections.pop("model", {})}
    batch = {"micro_size": 2, "global_size": 8, **sections.pop("batch", {})}
    values = {"optimizer": SGD, "training": {"total_steps": 10}, **sections}
    experiment = Experiment.model_validate({"model": model, "batch": batch, **values})
    check_experiment(experiment)
    return experiment


@contextmanager
def fp16_on_cpu() -> Iterator[None]:
    """On a rank: fp16 on a CPU, which DeepSpeed would refuse; torch computes it all the same."""
    from deepspeed.accelerator import get_accelerator

    accelerator = get_accelerator()
    accelerator.is_fp16_supported = lambda: True
    accelerator.supported_dtypes = lambda: []
    try:
        yield
    finally:
        del accelerator.is_fp16_supported, accelerator.supported_dtypes


@dataclass
class Outcome:
    """What a run of some steps gave."""

    nats: list[np.ndarray] = field(default_factory=list)
    """Per step: sums of nats (layers, n) over all micro-batches."""
    gradients: dict[str, np.ndarray] = field(default_factory=dict)
    """Of the first step: SGD's momentum after one step is the gradient."""
    parameters: dict[str, np.ndarray] = field(default_factory=dict)
    """After the last step."""
    gradient_norms: list[float | None] = field(default_factory=list)
    loss_scale: float = 1.0
    evaluation: np.ndarray | None = None
    """Sums of nats (layers, n) of the micro-batches of step 99, without dropout."""


def train(values: dict[str, Any], steps: int, whole_state: bool = True) -> Outcome:
    """On a rank: the same steps under DeepSpeed. Parameters and gradients are those this rank would write."""
    experiment, outcome = Experiment.model_validate(values), Outcome()
    parallel = experiment.parallel
    mesh = start(Topology(parallel.pipe, parallel.data, parallel.tensor), torch.device("cpu"))
    engine = build_engine(experiment, mesh)
    state = EngineState(engine, experiment.optimizer.state_keys)
    total, mine = (
        experiment.batch.num_micro_batches,
        range(mesh.at.data, experiment.batch.num_micro_batches, parallel.data),
    )
    for step in range(steps):
        batches = [micro_batch(experiment, step, number) for number in mine]
        engine.train_step(batches, weights_at(experiment, step), experiment.optimizer.learning_rate)
        outcome.nats.append(engine.gather_losses().nats)
        outcome.gradient_norms.append(engine.gradient_norm)
        if step == 0 and whole_state:
            outcome.gradients = {
                name.removeprefix("momentum_buffer/"): tensor.numpy()
                for _, _, states in state.export()
                for name, tensor in states.items()
            }
    if whole_state:
        outcome.parameters = {
            name: tensor.numpy() for _, weights, _ in state.export() for name, tensor in weights.items()
        }
    batches = [micro_batch(experiment, 99, number) for number in mine]
    losses = engine.evaluate(batches, total // parallel.data, weights_at(experiment, steps - 1))
    outcome.evaluation, outcome.loss_scale = losses.nats, engine.loss_scale
    return outcome


def merged(outcomes: list[Outcome]) -> Outcome:
    """Rank 0's losses, and every rank's share of the parameters and gradients."""
    first = outcomes[0]
    for outcome in outcomes[1:]:
        first.gradients.update(outcome.gradients)
        first.parameters.update(outcome.parameters)
    return first
