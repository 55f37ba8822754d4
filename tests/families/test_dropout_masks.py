"""Masks are a function of (seed, step, micro-batch, layer): nothing else, and each of these."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.families.transformer.model import Transformer
from megachar.families.transformer.settings import TransformerConfig
from megachar.layers.dropout import DropoutKey
from tests.families.builders import random_batch, random_model

CONFIG = TransformerConfig(
    num_layers=3, width=8, num_heads=2, feed_forward_width=64, context=16, vocabulary_size=11, dropout=0.4
)
KEY = DropoutKey(seed=5, step=7, micro_batch=2)


@pytest.fixture
def model(seed: int) -> Transformer:
    """All its ReLU units are active, so that what is 0 after dropout was dropped."""
    model = random_model(CONFIG, AuxiliaryConfig(), scale=0.1).train()
    for block in model.blocks:
        nn.init.constant_(block.feed_forward.up.bias, 50.0)
    return model


def masks(model: Transformer, key: DropoutKey | None) -> list[Tensor]:
    """What the ReLU layers kept, by layer, and then the losses: masks of the attention show there."""
    kept: list[Tensor] = []

    def look(module: nn.Module, arguments: Any) -> None:
        kept.append(arguments[0].detach() != 0)

    handles = [block.feed_forward.down.register_forward_pre_hook(look) for block in model.blocks]
    torch.manual_seed(0)
    inputs, targets = random_batch(CONFIG, 2, batch=2)
    torch.rand(int(torch.randint(9, ())))  # the state of the generator is not to matter
    with torch.no_grad():
        _, sums = model.losses(inputs, targets, AuxiliaryConfig(), [1.0] * 3, key)
    for handle in handles:
        handle.remove()
    return [*kept, sums]


def test_same_key_same_masks(model: Transformer) -> None:
    first = masks(model, KEY)
    torch.manual_seed(123)
    for one, other in zip(first, masks(model, DropoutKey(5, 7, 2)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("other", [DropoutKey(6, 7, 2), DropoutKey(5, 8, 2), DropoutKey(5, 7, 3)])
def test_another_key_gives_other_masks_in_every_layer(model: Transformer, other: DropoutKey) -> None:
    for one, another in zip(masks(model, KEY), masks(model, other), strict=True):
        assert not torch.equal(one, another)


def test_every_layer_has_masks_of_its_own(model: Transformer) -> None:
    first, second, third, _ = masks(model, KEY)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    assert not torch.equal(first, third)


def test_layers_drop_at_the_set_rate(model: Transformer) -> None:
    for kept in masks(model, KEY)[:-1]:
        share = float(kept.float().mean())  # of 2 x 16 x 64 units
        assert share == pytest.approx(0.6, abs=6 * (0.24 / kept.numel()) ** 0.5)


def test_a_mask_depends_on_its_own_layer_alone(model: Transformer) -> None:
    """The blocks before it may draw more or less: pipeline stages draw only their own."""
    whole = masks(model, KEY)
    model.blocks[0].attention.dropout = 0.0
    model.blocks[0].feed_forward.dropout = 0.0
    changed = masks(model, KEY)
    assert bool(changed[0].all())
    assert torch.equal(changed[1], whole[1])
    assert torch.equal(changed[2], whole[2])


def test_attention_weights_are_dropped(model: Transformer) -> None:
    """With the ReLU layers' dropout off, the key still changes the losses."""
    for block in model.blocks:
        block.feed_forward.dropout = 0.0
    assert not torch.equal(masks(model, KEY)[-1], masks(model, DropoutKey(5, 8, 2))[-1])


def test_evaluation_drops_nothing(model: Transformer) -> None:
    model.eval()
    with_key, without = masks(model, KEY), masks(model, None)
    assert all(bool(kept.all()) for kept in with_key[:-1])
    assert torch.equal(with_key[-1], without[-1])
