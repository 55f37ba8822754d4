"""Initial weights of recurrent models, drawn per layer from (seed, layer).

From the paper: scaled orthogonal hidden weights, forget bias. Stated nowhere, ours: the embedding is of unit size, and
the input's weights bring it, or a one-hot vector, to `_INPUT_DEVIATION` at the gates and to 1 in the factor W_mx x, so
that m is as large as W_mh h; all other biases are 0, and the classifier starts with a loss near ln V. The terms of
multiplicative integration start as in Wu et al. (2016): 1, 0.5, 0.5.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from megachar.config.recurrent import RecurrentConfig
from megachar.layers.dropout import DropoutKey
from megachar.layers.recurrent import Matrix, RecurrentLayer
from megachar.models.recurrent import RecurrentModel

_INPUT_DEVIATION = 0.5
_CLASSIFIER_GAIN = 0.2


@torch.no_grad()
def initialize_recurrent(model: RecurrentModel, seed: int) -> RecurrentModel:
    """Fill all parameters on the CPU, in fp32; returns the model."""
    config, layers = model.config, list(model.layers)
    if model.embedding is not None:
        model.embedding.weight.normal_(generator=_generator(seed, 0))
    for number, layer in enumerate(layers, start=1):
        one_hot = number == 1 and model.embedding is None
        _initialize_layer(layer, config, one_hot, _generator(seed, number))
    classifier, generator = model.classifier, _generator(seed, len(layers) + 1)
    classifier.weight.normal_(0.0, _CLASSIFIER_GAIN / math.sqrt(config.hidden_size), generator=generator)
    if config.softmax_bias:
        classifier.bias.zero_()
    return model


def _initialize_layer(layer: Any, config: RecurrentConfig, one_hot: bool, generator: torch.Generator) -> None:
    assert isinstance(layer, RecurrentLayer)
    size, weight = layer.hidden_size, layer.input.weight
    weight.normal_(0.0, 1.0 if one_hot else 1.0 / math.sqrt(weight.shape[1]), generator=generator)
    weight[: 4 * size] *= _INPUT_DEVIATION
    hidden = [*layer.recurrent.weight.split(size), *([layer.factor.weight] if layer.factor is not None else [])]
    for square in hidden:
        _initialize_hidden(square, config.orthogonal_scale, generator)
    for matrix in layer.modules():
        if isinstance(matrix, Matrix):
            matrix.reset_gain()
    layer.bias.zero_()
    layer.bias[size : 2 * size] = config.forget_bias
    if config.cell == "milstm":
        for parameter, value in ((layer.alpha, 1.0), (layer.beta_input, 0.5), (layer.beta_hidden, 0.5)):
            nn.init.constant_(parameter, value)


def _initialize_hidden(square: Tensor, orthogonal_scale: float, generator: torch.Generator) -> None:
    """Fill one matrix (n, n) that multiplies hidden states."""
    if orthogonal_scale:
        nn.init.orthogonal_(square, orthogonal_scale, generator=generator)
    else:
        square.normal_(0.0, 1.0 / math.sqrt(square.shape[0]), generator=generator)


def _generator(seed: int, layer_number: int) -> torch.Generator:
    return torch.Generator().manual_seed(DropoutKey(seed, 0, 0).block(layer_number, tensor_rank=-1))
