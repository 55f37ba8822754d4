"""Initial weights depend on seed and layer alone, and the first loss is ln V at any depth."""

import math
import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.families.transformer.initialization import initialize, initialize_layer
from megachar.families.transformer.model import Transformer, build_block, build_embedding, build_head
from megachar.families.transformer.settings import TransformerConfig
from megachar.losses.auxiliary import layer_weights
from tests.families.builders import random_auxiliary, random_batch, random_config


def assert_same(first: nn.Module, second: nn.Module) -> None:
    values = dict(second.named_parameters())
    assert values.keys() == dict(first.named_parameters()).keys()
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, values[name]), name


def test_a_layer_alone_gets_what_it_gets_in_the_model(seed: int) -> None:
    """Whatever was drawn before it and in whatever order the layers come."""
    draw = random.Random(seed)
    config, auxiliary = random_config(draw), random_auxiliary(draw)
    model = initialize(Transformer(config, auxiliary), seed)
    for index in reversed(range(config.num_layers)):
        block = build_block(config, auxiliary, index, "torch")
        torch.rand(draw.randint(1, 9))
        initialize_layer(block, config, seed, index + 1)
        assert_same(block, model.blocks[index])
    for layer, expected, number in ((build_head(config, auxiliary, "torch"), model.head, config.num_layers + 1),
                                    (build_embedding(config), model.embedding, 0)):  # fmt: skip
        initialize_layer(layer, config, seed, number)
        assert_same(layer, expected)


def test_torchs_generator_is_left_alone(seed: int) -> None:
    model = Transformer(TransformerConfig(num_layers=1, width=4, context=4), None)
    before = torch.random.get_rng_state()
    initialize(model, seed)
    assert torch.equal(torch.random.get_rng_state(), before)


def matrices(model: Transformer) -> dict[str, Tensor]:
    return {name: value for name, value in model.named_parameters() if "norm" not in name and "bias" not in name}


def test_other_seeds_and_other_layers_get_other_weights(seed: int) -> None:
    config = TransformerConfig(num_layers=3, width=8, num_heads=2, feed_forward_width=8, context=8, vocabulary_size=8)
    first, second = (initialize(Transformer(config, AuxiliaryConfig()), seed + by) for by in (0, 1))
    for name, value in matrices(first).items():
        assert not torch.equal(value, matrices(second)[name]), name
    seen = [value.flatten()[:16].tolist() for value in matrices(first).values()]
    assert len({tuple(values) for values in seen}) == len(seen)


def check_deviation(value: Tensor, expected: float) -> None:
    """Within six standard deviations, of the mean as of the deviation."""
    value, n = value.detach(), value.numel()
    assert float(value.std()) == pytest.approx(expected, rel=6 / math.sqrt(2 * n))
    assert float(value.mean()) == pytest.approx(0.0, abs=6 * expected / math.sqrt(n))


@pytest.mark.parametrize("num_layers", [1, 5])
def test_deviations(num_layers: int, seed: int) -> None:
    config = TransformerConfig(num_layers=num_layers, width=64, num_heads=2, feed_forward_width=128, context=40)
    model = initialize(Transformer(config, AuxiliaryConfig()), seed)
    for name, value in model.named_parameters():
        if name.endswith("bias"):
            assert not value.any(), name
        elif "norm" in name:
            assert bool((value == 1).all()), name
        elif "classifiers" in name:
            check_deviation(value, 0.2 / math.sqrt(64))
        elif name.endswith(("attention.output.weight", "feed_forward.down.weight")):
            check_deviation(value, 0.02 / math.sqrt(2 * num_layers))
        else:
            assert name.endswith(("embedding.weight", "table", "qkv.weight", "up.weight")), name
            check_deviation(value, 0.02)


def check_first_losses(sums: Sequence[Tensor], num_characters: int, vocabulary_size: int) -> None:
    for layer, nats in enumerate(sums):
        for value in nats.tolist():
            assert value / num_characters == pytest.approx(math.log(vocabulary_size), rel=0.02), f"layer {layer}"


@pytest.mark.parametrize("num_layers", [1, 2, 12, 64])
@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_the_first_loss_is_ln_v_at_any_depth(num_layers: int, positions: str, seed: int) -> None:
    config = TransformerConfig.model_validate({
        "num_layers": num_layers, "width": 32, "num_heads": 2, "feed_forward_width": 64, "context": 64,
        "vocabulary_size": 256, "positions": positions,
    })  # fmt: skip
    auxiliary = AuxiliaryConfig()
    model = initialize(Transformer(config, auxiliary), seed)
    inputs, targets = random_batch(config, 2, batch=4)
    weights = layer_weights(auxiliary, num_layers, 1000, 0)
    with torch.no_grad():
        total, sums = model.losses(inputs, targets, auxiliary, weights)
    check_first_losses(list(sums), inputs.numel(), 256)
    assert float(total) == pytest.approx(num_layers * 1.5 * math.log(256), rel=0.02)


def test_the_first_loss_of_t64(seed: int) -> None:
    """At its full width and depth, a block at a time, on 192 characters: on 64, chance alone fails one in a hundred."""
    config = TransformerConfig(num_layers=64, width=512, num_heads=2, feed_forward_width=2048, context=64)
    auxiliary = AuxiliaryConfig()

    def build(layer: nn.Module, number: int) -> nn.Module:
        layer.to_empty(device="cpu")
        initialize_layer(layer, config, seed, number)
        return layer

    inputs, targets = random_batch(config, 2, batch=3)
    with torch.no_grad():
        with torch.device("meta"):
            layers = [build_block(config, auxiliary, index, "torch") for index in range(64)]
            embedding, head = build_embedding(config), build_head(config, auxiliary, "torch")
        hidden, sums = build(embedding, 0)(inputs), []
        for number in range(1, 65):
            block = build(layers.pop(0), number)
            hidden = block(hidden)
            sums.append((build(head, 65) if number == 64 else block.auxiliary).nats(hidden, targets))
    check_first_losses(sums, inputs.numel(), 256)
