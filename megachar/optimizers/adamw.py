"""AdamW. Imports no torch before one is built."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from megachar.optimizers.optimizer import OptimizerConfig, ParameterGroups

if TYPE_CHECKING:
    import torch


class AdamWConfig(OptimizerConfig):
    """AdamW (Loshchilov and Hutter 2019)."""

    name: Literal["adamw"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    beta2: float = Field(default=0.95, ge=0.0, lt=1.0)
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decay of matrices; 0 is off. Biases, norms, embeddings and position tables are never decayed."""

    state_keys: ClassVar = ("exp_avg", "exp_avg_sq")
    follows_scale: ClassVar = True

    def build(self, groups: ParameterGroups, *, apex: bool, partitioned: bool) -> "torch.optim.Optimizer":
        """See `OptimizerConfig`."""
        betas = (self.beta1, self.beta2)
        if apex:
            from apex.optimizers import FusedAdam

            return FusedAdam(groups, lr=self.learning_rate, betas=betas, eps=self.epsilon, adam_w_mode=True)
        import torch

        return torch.optim.AdamW(groups, lr=self.learning_rate, betas=betas, eps=self.epsilon, fused=True)
