"""The single-device models of all families: the reference. They know no ranks."""

from torch import nn

from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.config.sections.model import ModelConfig


class Model(nn.Module):
    """A model of any family."""

    config: ModelConfig


def build_model(config: ModelConfig, auxiliary: AuxiliaryConfig | None, kernels: str = "torch") -> Model:
    """A model whose weights are not yet set.

    Args:
        config: its settings.
        auxiliary: the auxiliary losses it is trained with; None: for use, without classifiers of theirs.
        kernels: `torch`, or `apex` for its layer norms where it has some.
    """
    model: Model = config.part("model").build(config, auxiliary, kernels)
    return model
