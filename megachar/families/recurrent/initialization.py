"""Initial weights of recurrent models, drawn per layer from (seed, layer)."""

import torch

from megachar.families.parameters import start_layer
from megachar.families.recurrent.model import RecurrentModel
from megachar.layers.dropout import DropoutKey
from megachar.layers.recurrent import Matrix


@torch.no_grad()
def initialize(model: RecurrentModel, seed: int) -> RecurrentModel:
    """Fill all parameters on the CPU, in fp32; returns the model."""
    embedding = [] if model.embedding is None else [(0, "embedding", model.embedding)]
    layers = [(number + 1, f"layers.{number}", layer) for number, layer in enumerate(model.layers)]
    for number, name, layer in (*embedding, *layers, (len(layers) + 1, "classifier", model.classifier)):
        generator = torch.Generator().manual_seed(DropoutKey(seed, 0, 0).block(number, tensor_rank=-1))
        start_layer(layer, name, model.config, generator)
    for matrix in model.modules():
        if isinstance(matrix, Matrix):
            matrix.reset_gain()
    return model
