"""The transformer's parameters and operations. Imports no torch."""

from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.families.counting import Part
from megachar.families.transformer.settings import TransformerConfig


def count_parameters(model: TransformerConfig, auxiliary: AuxiliaryConfig) -> list[Part]:
    """Parameters of every part."""
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


def forward_flops_per_character(model: TransformerConfig, num_classifiers: float) -> float:
    """See `families.counting`."""
    d, f, t = model.width, model.feed_forward_width, model.context
    block = 2 * (4 * d * d + 2 * d * f) + 2 * 2 * d * (t + 1) / 2
    return model.num_layers * block + num_classifiers * 2 * d * model.vocabulary_size


def describe_layer(model: TransformerConfig) -> str:
    """What a layer is, in a word or two."""
    return f"{model.width}"


def describe_architecture(model: TransformerConfig) -> str:
    """What the model is, whatever its size."""
    return "transformer"


def describe_size(model: TransformerConfig) -> str:
    """How large it is."""
    return f"{model.num_layers} layers of {model.width:,}"
