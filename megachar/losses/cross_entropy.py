"""Cross-entropy as a sum of nats in fp32. Sums and counts are what gets reduced, never means."""

import torch.nn.functional as F
from torch import Tensor, nn


class CrossEntropy(nn.Module):
    """Negative log-likelihood of the targets. A module, so that tensor parallelism can put its own in its place."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Sum of nats, a scalar in fp32, of logits (..., v) against targets (...) of symbol numbers."""
        return F.cross_entropy(logits.float().flatten(0, -2), targets.flatten(), reduction="sum")
