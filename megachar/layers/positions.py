"""Positions, added to the input of every layer (Al-Rfou et al. 2019, section 2, "Positional embeddings")."""

import math

import torch
from torch import Tensor, nn


class LearnedPositions(nn.Module):
    """A learned table (t, d); every layer has its own."""

    def __init__(self, context: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(context, width))

    def forward(self, hidden: Tensor, offset: int = 0) -> Tensor:
        """Add rows offset..offset+s-1 to hidden (b, s, d)."""
        return hidden + self.table[offset : offset + hidden.shape[1]]


class SinusoidalPositions(nn.Module):
    """The fixed table of Vaswani et al. (2017), section 3.5, without parameters."""

    table: Tensor

    def __init__(self, context: int, width: int) -> None:
        super().__init__()
        position = torch.arange(context, dtype=torch.float64)[:, None]
        rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10_000.0) / width))
        table = torch.zeros(context, width)
        table[:, 0::2] = torch.sin(position * rate).float()
        table[:, 1::2] = torch.cos(position * rate[: width // 2]).float()
        self.register_buffer("table", table, persistent=False)

    def forward(self, hidden: Tensor, offset: int = 0) -> Tensor:
        """Add rows offset..offset+s-1 to hidden (b, s, d)."""
        return hidden + self.table[offset : offset + hidden.shape[1]].to(hidden.dtype)
