"""RMSprop whose updates all have one length. Imports no torch before one is built."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from megachar.optimizers.optimizer import OptimizerConfig, ParameterGroups

if TYPE_CHECKING:
    import torch


class NormalizedRMSpropConfig(OptimizerConfig):
    """RMSprop whose updates all have one length (Krause et al. 2016, equation 22)."""

    name: Literal["normalized_rmsprop"] = "normalized_rmsprop"
    learning_rate: float = Field(default=10.0, gt=0)
    """Length of an update, l: the Euclidean norm of the change of all parameters together."""
    decay: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Of the mean square, per update."""
    epsilon: float = Field(default=1e-6, gt=0)
    """Added to the mean square."""

    state_keys: ClassVar = ("mean_square",)
    takes_one_norm: ClassVar = True

    def build(self, groups: ParameterGroups, *, apex: bool, partitioned: bool) -> "torch.optim.Optimizer":
        """See `OptimizerConfig`; apex has none."""
        import torch.distributed as dist

        from megachar.optimizers.updates.normalized_rmsprop import NormalizedRMSprop

        # DeepSpeed steps group after group, and the norm is over all parameters.
        (group,) = groups
        add = dist.all_reduce if partitioned else None
        return NormalizedRMSprop(group["params"], self.learning_rate, self.decay, self.epsilon, add)
