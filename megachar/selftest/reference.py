"""What every layout is compared with: the single-device model, trained on random micro-batches."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, cast

import torch
from torch import Tensor

from megachar.config.experiment import Experiment
from megachar.data.batches import inputs_and_targets
from megachar.families.transformer.initialization import initialize
from megachar.families.transformer.model import Transformer
from megachar.families.transformer.settings import TransformerConfig
from megachar.layers.dropout import DropoutKey
from megachar.losses.auxiliary import layer_weights, target_weights
from megachar.parallel.stage import MicroBatch
from megachar.training.optimizer import build_optimizer

MOST_AT_ONCE: Final = 32
"""Micro-batches that are taken as one: hundreds of replicas have many."""


class Reference:
    """The single-device model of a transformer, trained on the CPU in fp32, in this process alone."""

    nats: list[Tensor]
    """Of each step: sums of nats (layers, n) over all micro-batches."""
    gradients: dict[str, Tensor]
    """Mean over all micro-batches, in the first step."""
    parameters: dict[str, Tensor]
    """After the last step."""

    def __init__(
        self, experiment: Experiment, num_steps: int, own: Sequence[int] = (), refused: Collection[int] = ()
    ) -> None:
        """Train for some steps.

        Args:
            experiment: what to train.
            num_steps: number of steps.
            own: numbers of the micro-batches of one data rank, whose losses and gradients are wanted on their own.
            refused: steps whose updates are not made.
        """
        config = cast(TransformerConfig, experiment.model)
        model = initialize(Transformer(config, experiment.auxiliary), experiment.seed)
        self._experiment, self._model = experiment, model
        optimizer = build_optimizer(experiment.optimizer, config, model.named_parameters())
        self.own_nats = self._backward(0, own)
        """Sums of nats (layers, n) of the rank's micro-batches, in the first step."""
        self.own_gradients = self._gradients()
        """Their mean over the rank's micro-batches, in the first step."""
        self.nats = []
        for step in range(num_steps):
            self.nats.append(self._backward(step, range(experiment.batch.num_micro_batches)))
            if step == 0:
                self.gradients = self._gradients()
            if step not in refused:
                optimizer.step()
        self.parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def _backward(self, step: int, numbers: Sequence[int]) -> Tensor:
        self._model.zero_grad(set_to_none=False)
        nats = torch.zeros((), dtype=torch.float64)
        auxiliary, weights = self._experiment.auxiliary, weights_at(self._experiment, step)
        size = 1 if self._experiment.model.drops_out else MOST_AT_ONCE  # masks are those of one micro-batch
        for first in range(0, len(numbers), size):
            batches = [micro_batch(self._experiment, step, number) for number in numbers[first : first + size]]
            inputs, targets = torch.cat([b.inputs for b in batches]), torch.cat([b.targets for b in batches])
            loss, sums = self._model.losses(inputs, targets, auxiliary, weights, batches[0].key)
            (loss * (len(batches) / len(numbers))).backward()
            nats = nats + sums.double()
        return nats

    def _gradients(self) -> dict[str, Tensor]:
        return {name: p.grad.clone() for name, p in self._model.named_parameters() if p.grad is not None}


def micro_batch(experiment: Experiment, step: int, number: int) -> MicroBatch:
    """Micro-batch `number` of a step, on the CPU: random symbols that depend on nothing else."""
    context, num_symbols = experiment.model.window_length, experiment.model.vocabulary_size
    shape = (experiment.batch.micro_size, context + len(target_weights(experiment.auxiliary)))
    symbols = torch.randint(num_symbols, shape, generator=torch.Generator().manual_seed(1000 * step + number))
    inputs, targets = inputs_and_targets(symbols.numpy(), context)
    key = DropoutKey(experiment.seed, step, number) if experiment.model.drops_out else None
    return MicroBatch(torch.from_numpy(inputs), torch.from_numpy(targets), key)


def weights_at(experiment: Experiment, step: int) -> tuple[float, ...]:
    """Weights of the layers' losses at a step."""
    return layer_weights(experiment.auxiliary, experiment.model.num_layers, experiment.training.total_steps, step)


def relative_error(actual: Iterable[Any], expected: Iterable[Any]) -> float:
    """Norm of the difference over that of what is expected, all tensors or arrays as one; NaN counts as infinite."""
    squares, norm = 0.0, 0.0
    for one, other in zip(actual, expected, strict=True):
        wanted = torch.as_tensor(other).double()
        squares += float((torch.as_tensor(one).double() - wanted).square().sum())
        norm += float(wanted.square().sum())
    error = (squares / norm) ** 0.5 if norm else squares**0.5
    return error if error == error else float("inf")
