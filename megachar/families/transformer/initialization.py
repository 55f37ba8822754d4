"""Initial weights, drawn per layer from (seed, layer), so that they do not depend on how layers are distributed.

With `local_offsets`, some heads start out looking a given number of characters back. A transformer with learned
positions otherwise spends its first millions of characters on finding its neighbours: its loss rests on a plateau near
that of a bigram until some head does. A few dimensions of the position tables start as sinusoids, in which "delta
characters back" is a rotation, and the head's query matrix starts as that rotation.
"""

import math

import torch
from torch import Tensor, nn

from megachar.families.parameters import start_layer
from megachar.families.transformer.model import Block, Transformer
from megachar.families.transformer.parameters import STANDARD_DEVIATION, layer_names
from megachar.families.transformer.settings import TransformerConfig
from megachar.layers.dropout import DropoutKey

# The scales of a local start were found by trying (context 128, width 192).
_LOCAL_EMBEDDING = 0.7
_LOCAL_LATER_TABLES = 0.3
_LOCAL_SHARED_DIMENSIONS = 0.1
_LOCAL_FREQUENCIES = (2.5, 0.02)
"""Highest and lowest, in radians per character."""


def initialize_layer(layer: nn.Module, config: TransformerConfig, seed: int, layer_number: int) -> None:
    """Fill the parameters of one layer: 0 is the embedding, 1..n the blocks, n + 1 the head."""
    generator = torch.Generator().manual_seed(DropoutKey(seed, 0, 0).block(layer_number, tensor_rank=-1))
    with torch.no_grad():
        start_layer(layer, layer_names(config)[layer_number], config, generator)
        if config.local_offsets and isinstance(layer, nn.Embedding):
            layer.weight.mul_(_LOCAL_EMBEDDING / STANDARD_DEVIATION)
            layer.weight[:, : _local_dimensions(config)] *= _LOCAL_SHARED_DIMENSIONS
        if config.local_offsets and isinstance(layer, Block):
            _start_local(layer, config, generator)


def initialize(model: Transformer, seed: int) -> Transformer:
    """Fill all parameters of a whole model on the CPU, in fp32; returns it."""
    for number, layer in enumerate((model.embedding, *model.blocks, model.head)):
        initialize_layer(layer, model.config, seed, number)
    return model


def _local_dimensions(config: TransformerConfig) -> int:
    """Dimensions of the hidden state that carry the sinusoids: as many as a head is wide, and even."""
    return config.width // config.num_heads // 2 * 2


def _start_local(block: Block, config: TransformerConfig, generator: torch.Generator) -> None:
    """Sinusoids into the first dimensions of the position table, rotations into the block's local heads."""
    half, head_width = _local_dimensions(config) // 2, config.width // config.num_heads
    highest, lowest = _LOCAL_FREQUENCIES
    frequencies = torch.exp(torch.linspace(math.log(highest), math.log(lowest), half))
    phases = torch.arange(config.context)[:, None] * frequencies  # (t, half)
    amplitude = math.sqrt(2) * _LOCAL_EMBEDDING * (1.0 if block.index == 0 else _LOCAL_LATER_TABLES)
    table = block.positions.table
    table.mul_(_LOCAL_EMBEDDING)
    table[:, : 2 * half] += amplitude * torch.cat([phases.sin(), phases.cos()], 1)

    query, key, _ = block.attention.qkv.weight.split(config.width)  # each (d, d), heads one below the other
    offsets = config.local_offsets[block.index] if block.index < len(config.local_offsets) else ()
    for head, offset in enumerate(offsets):
        rows = slice(head * head_width, (head + 1) * head_width)
        for matrix, start in ((query[rows], _rotation(frequencies * offset)), (key[rows], torch.eye(2 * half))):
            matrix.normal_(0.0, STANDARD_DEVIATION * config.width_ratio**-0.5, generator=generator)
            matrix[: 2 * half, : 2 * half] += start


def _rotation(angles: Tensor) -> Tensor:
    """The matrix that turns (sin p, cos p) of every phase p into (sin(p - angle), cos(p - angle))."""
    sine, cosine = torch.diag(angles.sin()), torch.diag(angles.cos())
    return torch.cat([torch.cat([cosine, -sine], 1), torch.cat([sine, cosine], 1)], 0)
