"""Parameters and FLOPs of transformers: the paper's counts, those of the built model, and torch's."""

import random

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from megachar.config.loading import load_experiment
from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.families.counting import count_parameters, forward_flops_per_character, training_flops_per_character
from megachar.families.transformer.model import Transformer
from megachar.families.transformer.settings import TransformerConfig
from tests.families.builders import random_auxiliary, random_config, random_model

PAPER = [("t12", 44_233_728, 41_213_184), ("t64", 235_340_800, 218_662_144)]


def built(config: TransformerConfig, auxiliary: AuxiliaryConfig | None) -> int:
    """Parameters of the model itself, which is never given memory."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Transformer(config, auxiliary).parameters())


@pytest.mark.parametrize(("preset", "training", "inference"), PAPER)
def test_the_papers_counts(preset: str, training: int, inference: int) -> None:
    experiment = load_experiment(preset)
    parts = count_parameters(experiment.model, experiment.auxiliary)
    assert sum(part.training for part in parts) == training
    assert sum(part.inference for part in parts) == inference
    assert built(experiment.model, experiment.auxiliary) == training
    assert built(experiment.model, None) == inference


def test_counts_are_those_of_the_built_model(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(20):
        config, auxiliary = random_config(draw), random_auxiliary(draw)
        parts = count_parameters(config, auxiliary)
        assert sum(part.training for part in parts) == built(config, auxiliary), (config, auxiliary)
        assert sum(part.inference for part in parts) == built(config, None), (config, auxiliary)


def test_parts_of_a_model_by_hand() -> None:
    """3 layers of width 4, feed-forward 5, 7 symbols, 6 characters, 3 targets."""
    model = TransformerConfig(num_layers=3, width=4, num_heads=2, feed_forward_width=5, context=6, vocabulary_size=7)
    parts = count_parameters(model, AuxiliaryConfig(num_targets=3))
    assert {part.name: (part.training, part.inference) for part in parts} == {
        "embedding": (28, 28), "positions": (72, 72), "attention": (192, 192), "feed-forward": (147, 147),
        "layer norms": (56, 56), "final classifier": (35, 35), "final classifiers of later targets": (70, 0),
        "intermediate classifiers": (210, 0),
    }  # fmt: skip


def test_flops_are_those_torch_counts(seed: int) -> None:
    """torch counts all t x t scores of the attention; the causal half of them is what has to be computed."""
    draw = random.Random(seed)
    for _ in range(5):
        config = random_config(draw)
        model = random_model(config, None)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            model(torch.zeros(2, config.context, dtype=torch.long))
        t, above = config.context, config.context * (config.context - 1) // 2
        future = 2 * config.num_layers * above * 2 * 2 * config.width
        assert forward_flops_per_character(config) * 2 * t == counter.get_total_flops() - future, config


@pytest.mark.parametrize("num_classifiers", [0.25, 1.0, 24.0])
def test_training_flops(num_classifiers: float) -> None:
    model = load_experiment("t12").model
    more = forward_flops_per_character(model, num_classifiers) - forward_flops_per_character(model, 0)
    assert more == num_classifiers * 2 * 512 * 256
    assert training_flops_per_character(model, num_classifiers) == 3 * forward_flops_per_character(
        model, num_classifiers
    )
