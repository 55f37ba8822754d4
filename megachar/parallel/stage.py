"""What every DeepSpeed engine drives: the layers of one pipeline rank, which read their own micro-batches."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from megachar.config.sections.model import ModelConfig
from megachar.layers.dropout import DropoutKey
from megachar.layers.variational import SegmentKey


@dataclass(frozen=True)
class Segment:
    """Where the rows of a recurrent model's micro-batch stand in their streams."""

    first_stream: int
    """Number of row 0's stream; the rows' streams follow on each other."""
    epoch: int
    """How often the streams were read to their end before: state is carried on only within one."""
    key: SegmentKey | None = None
    """Of the dropout masks; None where none are drawn."""


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass sees, on the stage's device."""

    inputs: Tensor
    """(b, t) symbol numbers."""
    targets: Tensor
    """(b, t, n) symbol numbers."""
    key: DropoutKey | None = None
    """Of a transformer's dropout masks; None where none are drawn."""
    segment: Segment | None = None
    """Of recurrent models."""

    def to(self, device: torch.device) -> "MicroBatch":
        """The same on another device."""
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))


class Stage(nn.Module):
    """The layers of one pipeline rank. Its parameters have the single-device model's names."""

    def __init__(self, config: ModelConfig, targets: int) -> None:
        """`config`: of the whole model, each position of which predicts so many targets, n."""
        super().__init__()
        self.config = config
        self.meter = LossMeter(config.num_layers, targets)
        self._batches: Iterator[MicroBatch] = iter(())
        self._weights: Sequence[float] = ()
        self._factor = 1.0

    def begin(self, batches: Iterable[MicroBatch], weights: Sequence[float], factor: float) -> None:
        """Set what the coming forward passes read.

        Args:
            batches: the micro-batches of this data rank, in order.
            weights: of every layer's loss (`losses.auxiliary.layer_weights`); a layer of weight 0 is not computed.
            factor: what the main loss is multiplied by before its backward pass.
        """
        self._batches, self._weights, self._factor = iter(batches), weights, factor

    def end_step(self, keep: bool) -> None:
        """The step's gradients are there; `keep`: its update will be made. Else its losses are forgotten here too."""
        self.meter.end_step(keep)

    def silent_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that the current weights leave without a gradient."""
        yield from ()

    def export_streams(self) -> dict[int, dict[str, Tensor]]:
        """What streams carry on to the next step, on the CPU in fp32, by the number of the first stream of each part.

        Rows are streams. Empty for transformers, which carry nothing on.
        """
        return {}

    def restore_streams(self, tensors: dict[str, Tensor]) -> None:
        """Put back what all ranks' `export_streams` gave, its parts joined: rows are all streams."""

    @abstractmethod
    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden state in and out; the last stage returns the main loss."""


class LossMeter:
    """Sums of nats and numbers of predictions of the local layers: of the steps since the last reset, and of this one.

    The two are apart so that a step that is not taken leaves nothing in the losses shown.
    """

    def __init__(self, num_layers: int, targets: int) -> None:
        self.shape = (num_layers, targets + 1)
        self._steps: dict[int, tuple[Tensor, int]] = {}
        self._step: dict[int, tuple[Tensor, int]] = {}

    def add(self, layer: int, nats: Tensor, count: int) -> None:
        """Add one micro-batch's sums (n,), each over `count` predictions."""
        _add(self._step, layer, nats.double(), count)

    def step_sums(self, device: torch.device) -> Tensor:
        """(3,) in float64, of this step: nats of everything; nats and count of the last layer's first target."""
        sums = torch.zeros(3, dtype=torch.float64, device=device)
        for layer, (nats, count) in self._step.items():
            sums[0] += nats.sum()
            if layer == self.shape[0] - 1:
                sums[1], sums[2] = nats[0], count
        return sums

    def end_step(self, keep: bool) -> None:
        """Add this step to those before it, or forget it."""
        for layer, (nats, count) in self._step.items() if keep else ():
            _add(self._steps, layer, nats, count)
        self._step = {}

    def take(self, device: torch.device) -> Tensor:
        """(layers, n + 1) in float64: sums of nats per target, then the count; zero for other ranks' layers. Resets."""
        self.end_step(keep=True)
        sums = torch.zeros(self.shape, dtype=torch.float64, device=device)
        for layer, (nats, count) in self._steps.items():
            sums[layer, :-1] = nats
            sums[layer, -1] = count
        self._steps = {}
        return sums


def _add(sums: dict[int, tuple[Tensor, int]], layer: int, nats: Tensor, count: int) -> None:
    before = sums.get(layer)
    sums[layer] = (before[0] + nats, before[1] + count) if before is not None else (nats, count)
