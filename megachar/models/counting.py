"""Parameters and floating-point operations by part, from arithmetic alone: imports no torch."""

from dataclasses import dataclass

from megachar.config.schema import AuxiliaryConfig, ModelConfig


@dataclass(frozen=True)
class Part:
    """One row of the table of parameters."""

    name: str
    training: int
    """Parameters in training."""
    inference: int
    """Parameters at inference, where only the last layer's first classifier is left."""


def count_parameters(model: ModelConfig, auxiliary: AuxiliaryConfig) -> list[Part]:
    """Parameters of every part of the transformer; the totals are the sums of the rows."""
    n, d, f, v, t = model.num_layers, model.width, model.feed_forward_width, model.vocabulary_size, model.context
    classifier = d * v + v
    intermediate = (n - 1) * auxiliary.num_targets if auxiliary.intermediate_layers else 0
    extra = auxiliary.num_targets - 1

    def same(name: str, count: int) -> Part:
        return Part(name, count, count)

    return [
        same("embedding", v * d),
        same("positions", n * t * d if model.positions == "learned" else 0),
        same("attention", n * 4 * d * d),
        same("feed-forward", n * (2 * d * f + f + d)),
        same("layer norms", n * 4 * d + 2 * d),
        same("final classifier", classifier),
        Part("final classifiers of later targets", extra * classifier, 0),
        Part("intermediate classifiers", intermediate * classifier, 0),
    ]


def forward_flops_per_character(model: ModelConfig, num_classifiers: float = 1.0) -> float:
    """Multiplications and additions of one forward pass, per character of a full window.

    Matrix products count 2 operations per weight; causal attention counts the (t + 1) / 2 keys a position sees on
    average. `num_classifiers` is how many classifiers are computed.
    """
    d, f, t = model.width, model.feed_forward_width, model.context
    block = 2 * (4 * d * d + 2 * d * f) + 2 * 2 * d * (t + 1) / 2
    return model.num_layers * block + num_classifiers * 2 * d * model.vocabulary_size


def training_flops_per_character(model: ModelConfig, num_classifiers: float) -> float:
    """Operations of one forward and backward pass (the backward pass counts twice the forward), per character.

    Recomputed activations do not count: this is the work the model needs, not what a layout spends.
    """
    return 3.0 * forward_flops_per_character(model, num_classifiers)
