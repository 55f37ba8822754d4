"""The recurrent models' parameters: initial values and decay; nothing is cut. Imports no torch before it is called.

From the paper: scaled orthogonal hidden weights, forget bias. Stated nowhere, ours: the embedding is of unit size, and
the input's weights bring it, or a one-hot vector, to `_INPUT_DEVIATION` at the gates and to 1 in the factor W_mx x, so
that m is as large as W_mh h; all other biases are 0, and the classifier starts with a loss near ln V. The terms of
multiplicative integration start as in Wu et al. (2016): 1, 0.5, 0.5. Gains start as the norms of their rows.
"""

import math
from typing import TYPE_CHECKING, Final

from megachar.families.parameters import Rule, constant, normal
from megachar.families.recurrent.settings import RecurrentConfig

if TYPE_CHECKING:
    from torch import Generator, Tensor

_INPUT_DEVIATION: Final = 0.5
_CLASSIFIER_GAIN: Final = 0.2


def _start_input(weight: "Tensor", model: RecurrentConfig, generator: "Generator") -> None:
    """Of a layer that reads vectors: W_x (4n, e), and below it the rows of W_mx."""
    _start_rows(weight, 1.0 / math.sqrt(weight.shape[1]), model, generator)


def _start_first_input(weight: "Tensor", model: RecurrentConfig, generator: "Generator") -> None:
    """Of the lowest layer, which reads one-hot vectors where there is no embedding."""
    if model.embedding_size:
        _start_input(weight, model, generator)
    else:
        _start_rows(weight, 1.0, model, generator)


def _start_rows(weight: "Tensor", deviation: float, model: RecurrentConfig, generator: "Generator") -> None:
    weight.normal_(0.0, deviation, generator=generator)
    weight[: 4 * model.hidden_size] *= _INPUT_DEVIATION


def _start_hidden(weight: "Tensor", model: RecurrentConfig, generator: "Generator") -> None:
    """Square after square (n, n) of what multiplies hidden states."""
    from torch.nn.init import orthogonal_

    for square in weight.split(model.hidden_size):
        if model.orthogonal_scale:
            orthogonal_(square, model.orthogonal_scale, generator=generator)
        else:
            square.normal_(0.0, 1.0 / math.sqrt(square.shape[0]), generator=generator)


def _start_bias(bias: "Tensor", model: RecurrentConfig, generator: "Generator") -> None:
    """Of the gates (4n,)."""
    bias.zero_()
    bias[model.hidden_size : 2 * model.hidden_size] = model.forget_bias


def _classifier(model: RecurrentConfig) -> float:
    return _CLASSIFIER_GAIN / math.sqrt(model.hidden_size)


TABLE: Final = (
    Rule(r"embedding\.weight", normal(1.0)),
    Rule(r"layers\.0\.input\.weight", _start_first_input, decays=True),
    Rule(r"layers\.\d+\.input\.weight", _start_input, decays=True),
    Rule(r"layers\.\d+\.(recurrent|factor)\.weight", _start_hidden, decays=True),
    Rule(r"layers\.\d+\.\w+\.gain", constant(1.0)),  # `initialize` sets them by the rows
    Rule(r"layers\.\d+\.bias", _start_bias),
    Rule(r"layers\.\d+\.alpha", constant(1.0)),
    Rule(r"layers\.\d+\.beta_(input|hidden)", constant(0.5)),
    Rule(r"classifier\.weight", normal(_classifier), decays=True),
    Rule(r"classifier\.bias", constant(0.0)),
)


def layer_names(model: RecurrentConfig) -> list[str]:
    """All layers in training, from below."""
    first = ["embedding"] if model.embedding_size else []
    return [*first, *(f"layers.{index}" for index in range(model.num_layers)), "classifier"]
