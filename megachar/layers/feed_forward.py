"""Position-wise feed-forward layer (Al-Rfou et al. 2019, section 2: 2048 ReLU units, with biases)."""

import torch.nn.functional as F
from torch import Tensor, nn


class FeedForward(nn.Module):
    """d -> f -> ReLU -> dropout -> d."""

    def __init__(self, width: int, feed_forward_width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.up = nn.Linear(width, feed_forward_width)
        self.down = nn.Linear(feed_forward_width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """(b, t, d) -> (b, t, d)."""
        active = F.dropout(F.relu(self.up(hidden)), self.dropout, self.training)  # (b, t, f)
        return self.down(active)
