"""Causal self-attention (Al-Rfou et al. 2019, section 2; no biases, so 4 d^2 parameters)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class KeyValueCache:
    """Keys and values of one layer for the characters seen so far: (b, h, capacity, k) each."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add (b, h, s, k) keys and values; return those of all characters so far, (b, h, length, k)."""
        if self._keys is None or self._values is None:
            shape = (*keys.shape[:2], self.capacity, keys.shape[3])
            self._keys, self._values = keys.new_empty(shape), values.new_empty(shape)
        start, self.length = self.length, self.length + keys.shape[2]
        assert self.length <= self.capacity
        self._keys[:, :, start : self.length] = keys
        self._values[:, :, start : self.length] = values
        return self._keys[:, :, : self.length], self._values[:, :, : self.length]


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which position i sees positions 0..i, through torch's fused kernel.

    Holds the width of a head rather than their number, so that the same code runs on a tensor-parallel rank that
    has been given only some of the heads.
    """

    def __init__(self, width: int, num_heads: int, dropout: float, scale: float | None = None) -> None:
        """`scale`: what scores are multiplied by; None: 1 / sqrt(k)."""
        super().__init__()
        self.scale = scale
        self.head_width = width // num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, hidden: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """(b, t, d) -> (b, t, d). With a cache, `hidden` holds the characters after those in the cache."""
        b, t, _ = hidden.shape
        qkv = self.qkv(hidden).view(b, t, 3, -1, self.head_width)  # (b, t, 3, h, k)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (b, h, t, k)
        causal = True
        if cache is not None:
            assert t == 1 or cache.length == 0, "a cache is filled at once, then one character at a time"
            causal = cache.length == 0
            key, value = cache.append(key, value)
        # On a CPU the fused kernel takes longer in half precision than in fp32 with this conversion.
        if hidden.device.type == "cpu" and query.dtype in (torch.bfloat16, torch.float16):
            query, key, value = query.float(), key.float(), value.float()
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=causal, scale=self.scale)
        mixed = mixed.transpose(1, 2).reshape(b, t, -1).to(hidden.dtype)  # (b, t, d)
        return self.output(mixed)


def new_caches(num_layers: int, capacity: int) -> list[KeyValueCache]:
    """Empty caches, one per layer."""
    return [KeyValueCache(capacity) for _ in range(num_layers)]
