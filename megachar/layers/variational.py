"""Masks of variational dropout (Gal and Ghahramani 2016): one for a whole segment, a function of where it is drawn."""

from dataclasses import dataclass

import torch
from torch import Tensor

from megachar.layers.dropout import DropoutKey


@dataclass(frozen=True)
class SegmentKey:
    """Which segments masks are drawn for: those of some streams at one step.

    Every stream has masks of its own, whichever rank and place in a micro-batch it is given to.
    """

    seed: int
    step: int
    streams: tuple[int, ...]
    """Numbers of the streams, (b,)."""

    def mask(self, place: int, probability: float, like: Tensor) -> Tensor:
        """A mask (b, n) for `like` (b, n), of its type and device: 0 with the probability, else 1 / (1 - probability).

        `place` tells the masks of a model apart. They are drawn on the CPU, so that any device has the same.
        """
        streams, size = like.shape
        assert streams == len(self.streams), "one row for every stream"
        generator, uniform = torch.Generator(), torch.empty(streams, size)
        for row, stream in zip(uniform, self.streams, strict=True):
            generator.manual_seed(DropoutKey(self.seed, self.step, stream).block(place))
            row.uniform_(generator=generator)
        return ((uniform >= probability).float() / (1.0 - probability)).to(like)
