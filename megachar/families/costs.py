"""What the layers of a model cost: products, bytes moved, activations kept. From arithmetic alone: imports no torch.

Every family counts its own layers, in `families/FAMILY/costs.py`. A plan adds them up over stages and micro-batches.
"""

from dataclasses import dataclass

from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.config.sections.model import ModelConfig


@dataclass(frozen=True)
class Share:
    """What one rank has of a micro-batch, and how it computes it."""

    windows: int
    """Rows of the micro-batch, b."""
    tensor: int
    """Tensor ranks that every matrix is cut over."""
    bytes_per_number: int
    """Of weights and activations: 4 in fp32, 2 in fp16 and bf16."""
    on_cpu: bool
    """CPUs lack the fused kernels that keep less."""


@dataclass(frozen=True)
class Work:
    """One pass, forward or backward, of one micro-batch through something, on one tensor rank."""

    flops: float = 0.0
    """Multiplications and additions of matrix products."""
    moved: float = 0.0
    """Bytes read and written by everything that is no product."""
    kernels: float = 0.0
    """Operations the device is given."""
    reduced: float = 0.0
    """Bytes of the tensors that are added up over the tensor ranks; 0 where there is but one."""
    reductions: int = 0
    """Number of these tensors."""


@dataclass(frozen=True)
class Passes:
    """A micro-batch forward and backward through something."""

    forward: Work = Work()
    backward: Work = Work()
    kept: float = 0.0
    """Bytes kept from the forward pass until the backward pass."""
    working: float = 0.0
    """Bytes that the backward pass needs besides at the most."""


@dataclass(frozen=True)
class LayerCost:
    """A layer of a model in training, by the name that `families.parameters.layer_names` gives it."""

    name: str
    cut: int
    """Parameters that are cut over the tensor ranks, all of them counted."""
    whole: int
    """Parameters that every tensor rank holds."""
    tensors: int
    """Number of its parameters' tensors."""
    passes: Passes
    """What it costs whether it predicts or not."""
    predicting: Passes | None = None
    """What its auxiliary classifiers cost besides while it predicts; None where it has none."""

    def parameters(self, tensor: int) -> int:
        """Parameters that one of so many tensor ranks holds."""
        return self.cut // tensor + self.whole


@dataclass(frozen=True)
class ModelCosts:
    """All layers of a model in training."""

    layers: tuple[LayerCost, ...]
    """From below. Those with a number in their names are what pipeline stages share out."""
    handed_on: float
    """Bytes of what one stage hands to the next, forward or backward."""


def model_costs(model: ModelConfig, auxiliary: AuxiliaryConfig, share: Share) -> ModelCosts:
    """The costs of a model of any family."""
    costs: ModelCosts = model.part("costs").model_costs(model, auxiliary, share)
    return costs
