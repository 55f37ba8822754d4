"""What ranks and the single-device reference both do: train a few steps on the same random micro-batches."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from megachar.config.checks import check_experiment
from megachar.config.experiment import Experiment
from megachar.families.transformer.initialization import initialize
from megachar.families.transformer.model import Transformer
from megachar.layers.dropout import DropoutKey
from megachar.losses.auxiliary import layer_weights
from megachar.parallel.engine import build_engine
from megachar.parallel.mesh import start
from megachar.parallel.stage import MicroBatch
from megachar.parallel.state import EngineState
from megachar.parallel.topology import Topology
from megachar.training.optimizer import build_optimizer

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


def micro_batch(experiment: Experiment, step: int, number: int) -> MicroBatch:
    """Micro-batch `number` of a step: random symbols that depend on nothing else."""
    generator = torch.Generator().manual_seed(1000 * step + number)
    context, num_targets = experiment.model.window_length, experiment.auxiliary.num_targets
    shape = (experiment.batch.micro_size, context + num_targets)
    symbols = torch.randint(experiment.model.vocabulary_size, shape, generator=generator)
    targets = torch.stack([symbols[:, 1 + j : 1 + j + context] for j in range(num_targets)], -1)
    key = DropoutKey(experiment.seed, step, number) if experiment.model.drops_out else None
    return MicroBatch(symbols[:, :context], targets, key)


def weights_at(experiment: Experiment, step: int) -> tuple[float, ...]:
    """Layer weights of a step."""
    total, layers = experiment.training.total_steps, experiment.model.num_layers
    return layer_weights(experiment.auxiliary, layers, total, step)


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


def reference(experiment: Experiment, steps: int, refused: Collection[int] = ()) -> Outcome:
    """The plain single-device model under torch.optim, in one process, in fp32; without the updates of some steps."""
    model, outcome = initialize(Transformer(experiment.model, experiment.auxiliary), experiment.seed), Outcome()
    optimizer = build_optimizer(experiment, model.named_parameters())
    total = experiment.batch.num_micro_batches
    for step in range(steps):
        optimizer.zero_grad(set_to_none=False)
        nats = torch.zeros(experiment.model.num_layers, experiment.auxiliary.num_targets, dtype=torch.float64)
        for number in range(total):
            batch = micro_batch(experiment, step, number)
            loss, sums = model.losses(
                batch.inputs, batch.targets, experiment.auxiliary, weights_at(experiment, step), batch.key
            )
            (loss / total).backward()
            nats += sums.double()
        if step == 0:
            outcome.gradients = {name: p.grad.numpy().copy() for name, p in model.named_parameters()}  # type: ignore[union-attr]
        if step not in refused:
            optimizer.step()
        outcome.nats.append(nats.numpy())
    outcome.parameters = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    return outcome


def train(values: dict[str, Any], steps: int, whole_state: bool = True) -> Outcome:
    """On a rank: the same steps under DeepSpeed. Parameters and gradients are those this rank would write."""
    experiment, outcome = Experiment.model_validate(values), Outcome()
    parallel = experiment.parallel
    mesh = start(Topology(parallel.pipe, parallel.data, parallel.tensor), torch.device("cpu"))
    engine = build_engine(experiment, mesh, lambda named: build_optimizer(experiment, named))
    state = EngineState(engine)
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


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the norm of what is expected; NaN counts as infinite."""
    difference = float(np.linalg.norm(actual.astype(np.float64) - expected))
    norm = float(np.linalg.norm(expected))
    error = difference / norm if norm else difference
    return error if np.isfinite(error) else float("inf")
