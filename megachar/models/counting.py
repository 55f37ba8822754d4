"""Parameters and floating-point operations by part, from arithmetic alone: imports no torch."""

from dataclasses import dataclass

from megachar.config.recurrent import RecurrentConfig
from megachar.config.schema import AuxiliaryConfig, ModelConfig, TransformerConfig


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
    if isinstance(model, RecurrentConfig):
        return _recurrent_parts(model)
    return _transformer_parts(model, auxiliary)


def describe_model(model: ModelConfig) -> str:
    """The model in a few words: 12 layers of 512, or 1 layer of mlstm, 1,900 units."""
    layers = f"{model.num_layers} layer{'s' if model.num_layers > 1 else ''} of"
    return (
        f"{layers} {model.cell}, {model.hidden_size:,} units"
        if isinstance(model, RecurrentConfig)
        else (f"{layers} {model.width}")
    )


def forward_flops_per_character(model: ModelConfig, num_classifiers: float = 1.0) -> float:
    """Multiplications and additions of one forward pass, per character of a full window.

    Matrix products count 2 operations per weight, and `num_classifiers` is how many classifiers are computed. Causal
    attention counts the (t + 1) / 2 keys a position sees on average. One-hot inputs are looked up, which costs none.
    """
    if isinstance(model, RecurrentConfig):
        weights = _recurrent_products(model)
        return 2.0 * (weights + num_classifiers * model.hidden_size * model.vocabulary_size)
    d, f, t = model.width, model.feed_forward_width, model.context
    block = 2 * (4 * d * d + 2 * d * f) + 2 * 2 * d * (t + 1) / 2
    return model.num_layers * block + num_classifiers * 2 * d * model.vocabulary_size


def training_flops_per_character(model: ModelConfig, num_classifiers: float = 1.0) -> float:
    """Operations of one forward and backward pass (the backward pass counts twice the forward), per character.

    Recomputed activations do not count: this is the work the model needs, not what a layout spends.
    """
    return 3.0 * forward_flops_per_character(model, num_classifiers)


def step_flops(model: ModelConfig, auxiliary: AuxiliaryConfig, num_windows: int, num_layers: float) -> float:
    """Operations of one training step over so many windows; `num_layers`: whose classifiers predict, the last's too."""
    classifiers = num_layers * auxiliary.num_targets
    if not auxiliary.multiple_positions:
        classifiers /= model.window_length
    return training_flops_per_character(model, classifiers) * num_windows * model.window_length


def _transformer_parts(model: TransformerConfig, auxiliary: AuxiliaryConfig) -> list[Part]:
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


def _recurrent_parts(model: RecurrentConfig) -> list[Part]:
    """At inference the model is folded (`models.recurrent.fold`)."""
    layers, n, e, v = model.num_layers, model.hidden_size, model.embedding_size, model.vocabulary_size
    inputs = 5 if model.cell == "mlstm" else 4  # rows of input weights, and of recurrent weights, in n
    above = (layers - 1) * inputs * n * n
    bias = v if model.softmax_bias else 0
    integration = 3 * layers * 4 * n if model.cell == "milstm" else 0
    return [
        Part("embedding", v * e, 0),
        Part("input weights", inputs * n * (e or v) + above, inputs * n * v + above),
        *(
            Part(name, count, count)
            for name, count in (
                ("recurrent weights", layers * inputs * n * n),
                ("biases of the gates", layers * 4 * n),
                ("multiplicative integration", integration),
                ("classifier", n * v + bias),
            )
        ),
        Part("weight-norm gains", layers * 2 * inputs * n if model.weight_norm else 0, 0),
    ]


def _recurrent_products(model: RecurrentConfig) -> int:
    """Weights that every character is multiplied by, without the classifier's."""
    layers, n = model.num_layers, model.hidden_size
    inputs = 5 if model.cell == "mlstm" else 4
    return layers * inputs * n * n + (layers - 1) * inputs * n * n + inputs * n * model.embedding_size
