"""Keys of dropout masks tell seed, step, micro-batch and layer apart for ever, and seeding fixes what is drawn."""

import itertools
import math
import random

import pytest
import torch

from megachar.layers.attention import CausalSelfAttention
from megachar.layers.dropout import DropoutKey, seed_generator
from megachar.layers.feed_forward import FeedForward

CPU = torch.device("cpu")


def test_keys_tell_everything_apart() -> None:
    """Seed, step, micro-batch, layer and tensor rank each reach the generator's seed; -1 is the initial weights'."""
    parts = itertools.product((0, 1, 2, 2**40), (0, 1, 4_000_000), (0, 1, 7), (0, 1, 63), (-1, 0, 1))
    grid = list(parts)
    seeds = {DropoutKey(seed, step, number).block(layer, rank) for seed, step, number, layer, rank in grid}
    assert len(seeds) == len(grid)
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_swapped_parts_are_other_keys(seed: int) -> None:
    draw = random.Random(seed)
    values = draw.sample(range(1000), 5)
    seeds = {DropoutKey(*order[:3]).block(*order[3:]) for order in itertools.permutations(values)}
    assert len(seeds) == math.factorial(5), values


def test_any_bit_of_the_key_changes_half_the_seed(seed: int) -> None:
    key = DropoutKey(seed, seed % 1_000_003, 5)
    base, flips = key.block(3), []
    for bit in range(63):
        flips.append((base ^ DropoutKey(key.seed ^ (1 << bit), key.step, 5).block(3)).bit_count())
        flips.append((base ^ DropoutKey(key.seed, key.step ^ (1 << bit), 5).block(3)).bit_count())
    assert sum(flips) / len(flips) == pytest.approx(16, abs=1.6)  # 6 standard deviations of the mean
    assert min(flips) >= 1


def test_the_key_is_the_same_for_ever() -> None:
    """A resumed run, also under another megachar, draws the masks it would have drawn."""
    assert DropoutKey(1, 2, 3).block(4, 5) == 2428201399
    assert DropoutKey(0, 0, 0).block(0) == 2024692378


def test_seeding_fixes_what_is_drawn() -> None:
    seed_generator(CPU, 7)
    first = torch.rand(5)
    torch.rand(3)
    seed_generator(CPU, 7)
    assert torch.equal(torch.rand(5), first)
    seed_generator(CPU, 8)
    assert not torch.equal(torch.rand(5), first)


def check_rate(zeros: int, draws: int, probability: float) -> None:
    """Within six standard deviations."""
    tolerance = 6 * math.sqrt(probability * (1 - probability) / draws)
    assert zeros / draws == pytest.approx(probability, abs=tolerance)


@pytest.mark.parametrize("probability", [0.1, 0.55])
def test_relu_dropout(probability: float, seed: int) -> None:
    """Hidden units are dropped after the ReLU with their probability, and the rest scaled up."""
    layer = FeedForward(width=20, feed_forward_width=20, dropout=probability)
    with torch.no_grad():
        layer.up.weight.copy_(torch.eye(20))
        layer.up.bias.zero_()
        layer.down.weight.copy_(torch.eye(20))
        layer.down.bias.zero_()
    output = layer(torch.ones(40, 50, 20))
    check_rate(int((output == 0).sum()), output.numel(), probability)
    torch.testing.assert_close(output[output != 0], torch.full_like(output[output != 0], 1 / (1 - probability)))
    assert torch.equal(layer.eval()(torch.ones(2, 3, 20)), torch.ones(2, 3, 20))


@pytest.mark.parametrize("probability", [0.1, 0.55])
def test_attention_dropout(probability: float, seed: int) -> None:
    """The first character sees itself alone, so its only attention weight is kept or dropped, for each head."""
    layer = CausalSelfAttention(width=8, num_heads=4, dropout=probability)
    with torch.no_grad():
        layer.qkv.weight.zero_()
        layer.qkv.weight[16:].copy_(torch.eye(8))
        layer.output.weight.copy_(torch.eye(8))
    heads = layer(torch.ones(2000, 2, 8)).unflatten(-1, (4, 2))  # (b, t, h, k)
    first = heads[:, 0, :, 0]
    assert torch.equal(heads[:, 0, :, 0], heads[:, 0, :, 1])
    check_rate(int((first == 0).sum()), first.numel(), probability)
    torch.testing.assert_close(first[first != 0], torch.full_like(first[first != 0], 1 / (1 - probability)))
    # The second sees two, each of weight one half.
    check_rate(int((heads[:, 1, :, 0] == 0).sum()), first.numel(), probability**2)
    assert torch.equal(layer.eval()(torch.ones(2, 3, 8)), torch.ones(2, 3, 8))


def test_no_dropout_draws_nothing(seed: int) -> None:
    state = torch.random.get_rng_state()
    FeedForward(4, 4, 0.5).eval()(torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(1)))
    torch.random.set_rng_state(state)
    attention, feed_forward = CausalSelfAttention(4, 2, 0.0), FeedForward(4, 4, 0.0)
    state = torch.random.get_rng_state()
    feed_forward(attention(torch.ones(1, 2, 4)))
    assert torch.equal(torch.random.get_rng_state(), state)
