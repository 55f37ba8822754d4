"""Attention equals one query at a time, with a cache or without; the feed-forward part and the norm by hand."""

import math

import pytest
import torch
from torch import Tensor

from megachar.layers.attention import CausalSelfAttention, KeyValueCache, new_caches
from megachar.layers.feed_forward import FeedForward
from megachar.layers.norm import apex_available, layer_norm


def slow_attention(hidden: Tensor, qkv: Tensor, output: Tensor, num_heads: int) -> Tensor:
    """One head, one query at a time, in float64."""
    hidden, qkv, output = hidden.double(), qkv.double(), output.double()
    batch, length, width = hidden.shape
    size = width // num_heads
    mixed = torch.zeros(batch, length, width, dtype=torch.float64)
    query, key, value = ((hidden @ qkv[i * width : (i + 1) * width].T) for i in range(3))
    for head in range(num_heads):
        part = slice(head * size, (head + 1) * size)
        for place in range(length):
            scores = torch.einsum("bk,bsk->bs", query[:, place, part], key[:, : place + 1, part]) / math.sqrt(size)
            weights = torch.exp(scores - scores.max(1, keepdim=True).values)
            weights = weights / weights.sum(1, keepdim=True)
            mixed[:, place, part] = torch.einsum("bs,bsk->bk", weights, value[:, : place + 1, part])
    return mixed @ output.T


def random_attention(width: int, num_heads: int) -> CausalSelfAttention:
    attention = CausalSelfAttention(width, num_heads, dropout=0.0)
    with torch.no_grad():
        attention.qkv.weight.normal_(0, 0.6)
    return attention


@pytest.mark.parametrize(("width", "num_heads"), [(8, 1), (8, 4), (12, 2), (6, 6)])
def test_attention_one_query_at_a_time(width: int, num_heads: int, seed: int) -> None:
    attention, hidden = random_attention(width, num_heads), torch.randn(3, 7, width)
    expected = slow_attention(hidden, attention.qkv.weight.detach(), attention.output.weight.detach(), num_heads)
    torch.testing.assert_close(attention(hidden).double(), expected, rtol=1e-4, atol=1e-5)


def test_attention_has_no_biases() -> None:
    shapes = {name: tuple(value.shape) for name, value in CausalSelfAttention(8, 2, 0.0).named_parameters()}
    assert shapes == {"qkv.weight": (24, 8), "output.weight": (8, 8)}


@pytest.mark.parametrize("prompt", [1, 4, 7])
def test_cache_gives_what_the_whole_window_gives(prompt: int, seed: int) -> None:
    """A prompt at once, then one character at a time."""
    attention, hidden = random_attention(8, 2).eval(), torch.randn(2, 7, 8)
    cache = KeyValueCache(7)
    pieces = [attention(hidden[:, :prompt], cache)]
    pieces += [attention(hidden[:, i : i + 1], cache) for i in range(prompt, 7)]
    torch.testing.assert_close(torch.cat(pieces, 1), attention(hidden), rtol=1e-5, atol=1e-6)
    assert cache.length == 7


def test_a_full_cache_takes_no_more() -> None:
    cache = KeyValueCache(2)
    cache.append(torch.ones(1, 1, 2, 3), torch.ones(1, 1, 2, 3))
    with pytest.raises(AssertionError):
        cache.append(torch.ones(1, 1, 1, 3), torch.ones(1, 1, 1, 3))


def test_every_layer_has_its_own_cache() -> None:
    caches = new_caches(3, 5)
    assert len({id(cache) for cache in caches}) == 3
    assert [(cache.capacity, cache.length) for cache in caches] == [(5, 0)] * 3


def test_feed_forward_by_hand(seed: int) -> None:
    layer, hidden = FeedForward(6, 10, dropout=0.0), torch.randn(2, 3, 6)
    up, down = (hidden.double() @ layer.up.weight.double().T + layer.up.bias.double()), layer.down
    expected = up.clamp(min=0) @ down.weight.double().T + down.bias.double()
    torch.testing.assert_close(layer(hidden).double(), expected, rtol=1e-4, atol=1e-6)
    assert layer.up.weight.shape == (10, 6)


@pytest.mark.parametrize("kernels", ["torch", "apex"])
def test_layer_norm(kernels: str, seed: int) -> None:
    """apex's where it is there; where it is not, torch's, which is the same function."""
    norm, hidden = layer_norm(16, kernels), torch.randn(4, 16) * 3 + 2
    centred = hidden.double() - hidden.double().mean(-1, keepdim=True)
    expected = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)
    torch.testing.assert_close(norm(hidden).double(), expected, rtol=1e-4, atol=1e-5)
    assert sum(parameter.numel() for parameter in norm.parameters()) == 32
    assert kernels == "torch" or apex_available() or isinstance(norm, torch.nn.LayerNorm)
