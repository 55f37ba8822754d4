"""What every optimizer says of itself. Imports no torch.

An optimizer is one file of this folder: its settings, under `OptimizerConfig`, which build it.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from megachar.config.sections.section import Section

if TYPE_CHECKING:
    import torch

ParameterGroups = list[dict[str, Any]]
"""As torch's optimizers take them: `params`, and the `weight_decay` of these; where parameters follow width and depth,
also their `eps`, and `rate_factor`, by which every learning rate is multiplied."""


class OptimizerConfig(Section):
    """Base of the settings of optimizers. One with a `weight_decay` is given it for the parameters that decay."""

    name: str
    learning_rate: float

    state_keys: ClassVar[tuple[str, ...]]
    """What it keeps of every parameter, by its keys in torch's state: tensors of the parameter's shape."""
    follows_scale: ClassVar[bool] = False
    """Whether the rules for width and depth, which are Adam's, hold for it."""
    takes_one_norm: ClassVar[bool] = False
    """Whether it takes a norm over all parameters: they may then neither be cut nor be kept off the device."""

    def build(self, groups: ParameterGroups, *, apex: bool, partitioned: bool) -> "torch.optim.Optimizer":
        """The optimizer itself.

        Args:
            groups: all parameters of this rank.
            apex: take NVIDIA apex's, which can be imported.
            partitioned: each data rank will hand it another part of the parameters (ZeRO).
        """
        raise NotImplementedError
