"""Parameters and FLOPs of recurrent models: the papers' counts, those of the built model, and torch's."""

import random

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.families.counting import Part, count_parameters, forward_flops_per_character, training_flops_per_character
from megachar.families.recurrent.model import RecurrentModel, fold
from megachar.families.recurrent.settings import RecurrentConfig

LARGE = {"embedding_size": 400, "weight_norm": True}
PAPER = [
    ({"hidden_size": 1900, "vocabulary_size": 205, "softmax_bias": False}, 20_394_600),
    ({"hidden_size": 1900, "vocabulary_size": 205, **LARGE}, 22_348_305),
    ({"hidden_size": 2800, "vocabulary_size": 205, **LARGE}, 45_495_405),
    ({"hidden_size": 2800, "vocabulary_size": 27, **LARGE}, 44_925_627),
    ({"hidden_size": 450, "vocabulary_size": 27}, 1_087_227),
    ({"hidden_size": 512, "vocabulary_size": 27, "cell": "lstm"}, 1_119_771),
]


def parts_of(config: RecurrentConfig) -> list[Part]:
    return count_parameters(config, AuxiliaryConfig())


def built(config: RecurrentConfig) -> int:
    """Parameters of the model itself, which is never given memory."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in RecurrentModel(config).parameters())


def random_config(draw: random.Random) -> RecurrentConfig:
    return RecurrentConfig(
        cell=draw.choice(["mlstm", "lstm", "milstm"]), num_layers=draw.randint(1, 3), hidden_size=draw.randint(1, 12),
        embedding_size=draw.choice([0, draw.randint(1, 9)]), vocabulary_size=draw.randint(20, 30),
        softmax_bias=draw.random() < 0.5, weight_norm=draw.random() < 0.5,
    )  # fmt: skip


@pytest.mark.parametrize(("settings", "count"), PAPER)
def test_the_papers_counts(settings: dict[str, object], count: int) -> None:
    config = RecurrentConfig.model_validate(settings)
    assert sum(part.training for part in parts_of(config)) == count
    assert built(config) == count


def test_counts_are_those_of_the_built_model_and_of_the_folded_one(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(20):
        config = random_config(draw)
        parts = parts_of(config)
        assert sum(part.training for part in parts) == built(config), config
        folded = fold(RecurrentModel(config))
        assert sum(part.inference for part in parts) == sum(p.numel() for p in folded.parameters()), config


def test_parts_of_a_model_by_hand() -> None:
    """2 layers of 3 units, embedding 5, 7 symbols."""
    config = RecurrentConfig(num_layers=2, hidden_size=3, embedding_size=5, vocabulary_size=7, weight_norm=True)
    assert {part.name: (part.training, part.inference) for part in parts_of(config)} == {
        "embedding": (35, 0), "input weights": (75 + 45, 105 + 45), "recurrent weights": (90, 90),
        "biases of the gates": (24, 24), "multiplicative integration": (0, 0), "classifier": (28, 28),
        "weight-norm gains": (60, 0),
    }  # fmt: skip


def test_flops_are_those_torch_counts(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(5):
        config = random_config(draw)
        if not config.embedding_size:  # looked up: by a table that costs products itself, made once for a segment
            config = config.model_copy(update={"embedding_size": 3})
        model = RecurrentModel(config)
        inputs = torch.zeros(2, 8, dtype=torch.long)  # fewer characters than symbols: no table
        state = model.new_state(2)
        with FlopCounterMode(display=False) as counter:
            nats, _ = model.nats(inputs, inputs, state)
        assert forward_flops_per_character(config) * 16 == counter.get_total_flops(), config
        with FlopCounterMode(display=False) as counter:
            nats.backward()
        backward = training_flops_per_character(config) - forward_flops_per_character(config)
        assert backward * 16 == counter.get_total_flops(), config


def test_one_hot_inputs_cost_nothing() -> None:
    config = RecurrentConfig(hidden_size=10, vocabulary_size=7)
    assert forward_flops_per_character(config) == 2 * (5 * 100 + 70)
