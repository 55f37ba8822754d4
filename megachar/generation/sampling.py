"""The choice of the next symbol from logits."""

import torch
from torch import Tensor

from megachar.base.errors import CheckpointError
from megachar.generation.settings import SamplingSettings, fresh_seed


class Sampler:
    """Chooses symbols by `SamplingSettings`, with a random generator of its own.

    Probabilities and choices are computed in float64 on the CPU, whatever the model's device.
    """

    def __init__(self, settings: SamplingSettings, vocabulary_size: int) -> None:
        """ConfigError where the settings are out of range."""
        settings.check(vocabulary_size)
        self.settings = settings
        self.seed = fresh_seed() if settings.seed is None else settings.seed
        """What makes the same choices again."""
        self._generator = torch.Generator().manual_seed(self.seed)

    def __call__(self, logits: Tensor) -> int:
        """The next symbol, from logits (v,); CheckpointError where they are not finite."""
        if not bool(torch.isfinite(logits).all()):
            raise CheckpointError(
                "the model's logits are not finite numbers: training has diverged; take an earlier checkpoint with "
                "--step"
            )
        if self.settings.greedy:
            return int(logits.argmax())
        return int(torch.multinomial(self.probabilities(logits), 1, generator=self._generator))

    def probabilities(self, logits: Tensor) -> Tensor:
        """The distribution (v,) that is drawn from, float64: temperature, then top-k, then top-p.

        Exactly k symbols are left by top-k, and by top-p the fewest that reach p, at least one (Holtzman et al. 2020).
        """
        scores = logits.double().cpu()
        # The largest becomes 0 first, so that a tiny temperature gives -inf for the others instead of inf - inf.
        scores = (scores - scores.max()) / (1.0 if self.settings.temperature is None else self.settings.temperature)
        if self.settings.top_k is not None:
            scores = _keep(scores, scores.topk(self.settings.top_k).indices)
        probabilities = scores.softmax(0)
        if self.settings.top_p is not None and self.settings.top_p < 1:
            ordered, order = probabilities.sort(descending=True, stable=True)
            before = ordered.cumsum(0) - ordered
            probabilities = _keep(scores, order[before < self.settings.top_p]).softmax(0)
        return probabilities


def _keep(scores: Tensor, symbols: Tensor) -> Tensor:
    """Scores (v,) with -inf for all but `symbols`."""
    kept = torch.full_like(scores, -torch.inf)
    kept[symbols] = scores[symbols]
    return kept
