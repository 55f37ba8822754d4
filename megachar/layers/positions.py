"""Positions, added to the input of every layer (Al-Rfou et al. 2019, section 2, "Positional embeddings")."""

import math

import torch
from torch import Tensor, nn


class LearnedPositions(nn.Module):
    """A learned table (t, d); every layer has its own."""

    def __init__(self, context: int, width: int, factor: float = 1.0) -> None:
        """`factor`: what its rows are multiplied by where they are added."""
        super().__init__()
        self.factor = factor
        self.table = nn.Parameter(torch.empty(context, width))

    def forward(self, hidden: Tensor, offset: int = 0) -> Tensor:
        """Add rows offset..offset+s-1 to hidden (b, s, d)."""
        return torch.add(hidden, self.table[offset : offset + hidden.shape[1]], alpha=self.factor)


class SinusoidalPositions(nn.Module):
    """The fixed table of Vaswani et al. (2017), section 3.5, without parameters."""

    table: Tensor

    def __init__(self, context: int, width: int, factor: float = 1.0) -> None:
        """See `LearnedPositions`."""
        super().__init__()
        self.factor = factor
        position = torch.arange(context, dtype=torch.float64)[:, None]
        rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10_000.0) / width))
        table = torch.zeros(context, width)
        table[:, 0::2] = torch.sin(position * rate).float()
        table[:, 1::2] = torch.cos(position * rate[: width // 2]).float()
        self.register_buffer("table", table, persistent=False)

    def forward(self, hidden: Tensor, offset: int = 0) -> Tensor:
        """Add rows offset..offset+s-1 to hidden (b, s, d)."""
        rows = self.table[offset : offset + hidden.shape[1]].to(hidden.dtype)
        return torch.add(hidden, rows, alpha=self.factor)
