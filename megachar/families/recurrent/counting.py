"""The recurrent models' parameters and operations. Imports no torch."""

from typing import Final

from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.families.counting import Part
from megachar.families.recurrent.settings import RecurrentConfig

_CELLS: Final = {"mlstm": "mLSTM", "lstm": "LSTM", "milstm": "MI-LSTM"}


def count_parameters(model: RecurrentConfig, auxiliary: AuxiliaryConfig) -> list[Part]:
    """Parameters of every part. At inference the model is folded (`families.recurrent.model.fold`)."""
    layers, n, e, v = model.num_layers, model.hidden_size, model.embedding_size, model.vocabulary_size
    inputs = _matrices(model)
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


def forward_flops_per_character(model: RecurrentConfig, num_classifiers: float) -> float:
    """See `families.counting`."""
    layers, n, inputs = model.num_layers, model.hidden_size, _matrices(model)
    products = layers * inputs * n * n + (layers - 1) * inputs * n * n + inputs * n * model.embedding_size
    return 2.0 * (products + num_classifiers * n * model.vocabulary_size)


def describe_layer(model: RecurrentConfig) -> str:
    """What a layer is, in a word or two."""
    return f"{model.cell}, {model.hidden_size:,} units"


def describe_architecture(model: RecurrentConfig) -> str:
    """What the model is, whatever its size."""
    cell = _CELLS[model.cell]
    return cell if model.num_layers == 1 else f"stacked {cell} ({model.num_layers} layers)"


def describe_size(model: RecurrentConfig) -> str:
    """How large it is."""
    return f"{model.hidden_size:,} hidden"


def _matrices(model: RecurrentConfig) -> int:
    """Rows of input weights, and of recurrent weights, in n."""
    return 5 if model.cell == "mlstm" else 4
