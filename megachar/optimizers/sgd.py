"""Stochastic gradient descent. Imports no torch before one is built."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from megachar.optimizers.optimizer import OptimizerConfig, ParameterGroups

if TYPE_CHECKING:
    import torch


class SgdConfig(OptimizerConfig):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    learning_rate: float = Field(default=0.003, gt=0)
    momentum: float = Field(default=0.99, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decay of matrices; 0 is off. Biases, norms, embeddings and position tables are never decayed."""

    state_keys: ClassVar = ("momentum_buffer",)

    def build(self, groups: ParameterGroups, *, apex: bool, partitioned: bool) -> "torch.optim.Optimizer":
        """See `OptimizerConfig`."""
        if apex:
            from apex.optimizers import FusedSGD

            return FusedSGD(groups, lr=self.learning_rate, momentum=self.momentum)
        import torch

        return torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum, fused=True)
