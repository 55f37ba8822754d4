"""Dropout masks as a function of where they are drawn, so that no generator state has to be kept or moved.

The generator is seeded anew before every block from (seed, step, micro-batch, layer, tensor rank). Any pipeline
degree, activation recomputation and a resumed run then draw the same masks.
"""

from dataclasses import dataclass

import torch

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class DropoutKey:
    """Which micro-batch of which step masks are drawn for."""

    seed: int
    step: int
    micro_batch: int

    def block(self, layer: int, tensor_rank: int = 0) -> int:
        """Generator seed, 32 bits, of one block (counted from 0) on one tensor-parallel rank."""
        state = 0
        for part in (self.seed, self.step, self.micro_batch, layer, tensor_rank):
            state = _splitmix64(state ^ (part & _MASK))
        return state >> 32


def seed_generator(device: torch.device, seed: int) -> None:
    """Seed the generator that dropout on `device` draws from."""
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def _splitmix64(value: int) -> int:
    """One round of the splitmix64 mixer: every input bit reaches every output bit."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
