"""Parameters and floating-point operations by part, from arithmetic alone: imports no torch."""

from dataclasses import dataclass

from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.config.sections.model import ModelConfig


@dataclass(frozen=True)
class Part:
    """One row of the table of parameters."""

    name: str
    training: int
    """Parameters in training."""
    inference: int
    """Parameters at inference, where only the last layer's first classifier is left, or what a fold leaves."""


def count_parameters(model: ModelConfig, auxiliary: AuxiliaryConfig) -> list[Part]:
    """Parameters of every part of a model; the totals are the sums of the rows."""
    parts: list[Part] = model.part("counting").count_parameters(model, auxiliary)
    return parts


def describe_model(model: ModelConfig) -> str:
    """The model in a few words: 12 layers of 512, or 1 layer of mlstm, 1,900 units."""
    words = model.part("counting").describe_layer(model)
    return f"{model.num_layers} layer{'s' if model.num_layers > 1 else ''} of {words}"


def describe_architecture(model: ModelConfig) -> str:
    """What the model is, whatever its size."""
    return str(model.part("counting").describe_architecture(model))


def describe_size(model: ModelConfig) -> str:
    """How large the model is, in its family's own terms."""
    return str(model.part("counting").describe_size(model))


def forward_flops_per_character(model: ModelConfig, num_classifiers: float = 1.0) -> float:
    """Multiplications and additions of one forward pass, per character of a full window.

    Matrix products count 2 operations per weight, and `num_classifiers` is how many classifiers are computed. Causal
    attention counts the (t + 1) / 2 keys a position sees on average. One-hot inputs are looked up, which costs none.
    """
    flops: float = model.part("counting").forward_flops_per_character(model, num_classifiers)
    return flops


def training_flops_per_character(model: ModelConfig, num_classifiers: float = 1.0) -> float:
    """Operations of one forward and backward pass (the backward pass counts twice the forward), per character.

    Recomputed activations do not count: this is the work the model needs, not what a layout spends.
    """
    return 3.0 * forward_flops_per_character(model, num_classifiers)


def step_flops(model: ModelConfig, auxiliary: AuxiliaryConfig, num_windows: int, num_layers: float) -> float:
    """Operations of one training step over so many windows; `num_layers`: whose classifiers predict, the last's too."""
    classifiers = auxiliary.classifiers_per_character(num_layers, model.window_length)
    return training_flops_per_character(model, classifiers) * num_windows * model.window_length
