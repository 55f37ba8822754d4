"""Random small configurations and models with weights large enough that every part matters."""

import random
from typing import Any

import torch
from torch import Tensor

from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.families.transformer.model import Transformer
from megachar.families.transformer.settings import TransformerConfig


def random_config(draw: random.Random, **fixed: Any) -> TransformerConfig:
    """A model of up to 4 layers and width 24."""
    heads = draw.choice([1, 2, 3])
    values = {
        "num_layers": draw.randint(1, 4),
        "num_heads": heads,
        "width": heads * draw.randint(2, 8),
        "feed_forward_width": draw.randint(1, 20),
        "context": draw.randint(4, 9),
        "vocabulary_size": draw.randint(2, 30),
        "positions": draw.choice(["learned", "sinusoidal"]),
    }
    return TransformerConfig.model_validate({**values, **fixed})


def random_auxiliary(draw: random.Random, **fixed: Any) -> AuxiliaryConfig:
    """1 to 3 targets, each auxiliary loss on or off."""
    values = {
        "multiple_positions": draw.random() < 0.5,
        "intermediate_layers": draw.random() < 0.7,
        "num_targets": draw.randint(1, 3),
        "extra_target_weight": draw.random(),
    }
    return AuxiliaryConfig.model_validate({**values, **fixed})


def random_model(config: TransformerConfig, auxiliary: AuxiliaryConfig | None, scale: float = 0.4) -> Transformer:
    """Every parameter normal, biases and norms too; torch's generator gives them."""
    model = Transformer(config, auxiliary)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, scale)
    return model


def random_batch(config: TransformerConfig, num_targets: int, batch: int = 3) -> tuple[Tensor, Tensor]:
    """Inputs (b, t) and unrelated targets (b, t, n)."""
    inputs = torch.randint(config.vocabulary_size, (batch, config.context))
    return inputs, torch.randint(config.vocabulary_size, (batch, config.context, num_targets))
