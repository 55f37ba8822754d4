"""Initial weights, drawn per layer from (seed, layer), so that they do not depend on how layers are distributed.

The paper states none. Ours: normal with standard deviation 0.02 as in GPT-2, projections back into the hidden state
scaled by 1 / sqrt(2 n) for n layers, and classifiers small enough that the first loss is ln v at any depth.
"""

import math

import torch
from torch import nn

from megachar.config.schema import ModelConfig
from megachar.layers.dropout import DropoutKey
from megachar.models.transformer import Transformer

_STANDARD_DEVIATION = 0.02
_CLASSIFIER_GAIN = 0.2


def initialize_layer(layer: nn.Module, config: ModelConfig, seed: int, layer_number: int) -> None:
    """Fill the parameters of one layer: 0 is the embedding, 1..n the blocks, n + 1 the head."""
    generator = torch.Generator().manual_seed(DropoutKey(seed, 0, 0).block(layer_number, tensor_rank=-1))
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, _deviation(name, config), generator=generator)


def initialize(model: Transformer, seed: int) -> Transformer:
    """Fill all parameters of a whole model on the CPU, in fp32; returns it."""
    for number, layer in enumerate((model.embedding, *model.blocks, model.head)):
        initialize_layer(layer, model.config, seed, number)
    return model


def _deviation(name: str, config: ModelConfig) -> float:
    if "classifiers" in name:
        return _CLASSIFIER_GAIN / math.sqrt(config.width)
    if name.endswith(("attention.output.weight", "feed_forward.down.weight")):
        return _STANDARD_DEVIATION / math.sqrt(2 * config.num_layers)
    return _STANDARD_DEVIATION
