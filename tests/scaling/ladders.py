"""Ladders of runs whose law is known: sound ones, and five faults of training at three strengths."""

from collections.abc import Callable, Mapping

import numpy as np

from megachar.scaling.points import Floats, Points, Run
from megachar.scaling.power_sum import log_loss

TRUTH: Floats = np.array([np.log(1.25), np.log(35.0), np.log(150.0), 0.355, 0.40])
"""log E (bits per character), log A, log B, alpha, beta."""
SIZES: Floats = np.geomspace(2e4, 9e5, 5)
LENGTHS: Floats = np.geomspace(0.5e6, 8e6, 4)
HELD_OUT = (1.8e6, 1.6e7)
"""N and D of a run with four times the largest compute of the ladder."""
NOISES = (0.002, 0.005)
"""Standard deviations of log L between seeds."""

Loss = Callable[[float, float], float]
"""Of N and D, without noise."""


def sound(n: float, d: float) -> float:
    """The law."""
    return float(np.exp(log_loss(TRUTH, np.log([[n, d]]))[0]))


def wasted_warmup(strength: float) -> Loss:
    """As many characters teach nothing, a share of the shortest run."""
    return lambda n, d: sound(n, d - strength * LENGTHS[0])


def plateau(strength: float) -> Loss:
    """So many bits at the start, which fall by half in every 0.4 million characters."""
    return lambda n, d: sound(n, d) + strength * float(np.exp(-d / 0.6e6))


def rate_too_high(strength: float) -> Loss:
    """The largest model loses this share, those from the middle one on less, in line with log N."""
    steps = np.log(SIZES[-1] / SIZES[2])
    return lambda n, d: sound(n, d) * (1 + strength * max(0.0, float(np.log(n / SIZES[2]) / steps)))


def read_in_mid_schedule(strength: float) -> Loss:
    """All runs but the longest are read off its trunk before the rate has come down, and lose this share."""
    return lambda n, d: sound(n, d) * (1 + strength * (d < 0.99 * LENGTHS[-1]))


def repeated_text(strength: float) -> Loss:
    """The longest run passes its text so many times, and repetition is worth what Muennighoff et al. found."""
    unique = LENGTHS[-1] / strength
    return lambda n, d: sound(n, d if d <= unique else unique * (1 + 15.39 * (1 - np.exp(-(d / unique - 1) / 15.39))))


FAULTS: Mapping[str, tuple[Callable[[float], Loss], tuple[float, float, float]]] = {
    "wasted warm-up": (wasted_warmup, (0.1, 0.2, 0.4)),
    "plateau at the start": (plateau, (0.125, 0.25, 0.5)),
    "rate too high for large models": (rate_too_high, (0.01, 0.02, 0.04)),
    "read in mid-schedule": (read_in_mid_schedule, (0.01, 0.02, 0.04)),
    "repeated text": (repeated_text, (4, 8, 16)),
}
"""Name -> the loss at a strength, and three strengths."""


def make_ladder(rng: np.random.Generator, noise: float, loss: Loss = sound) -> Points:
    """Twenty runs, five sizes at four lengths, with noise of that standard deviation in log L."""
    return Points(tuple(Run(N=n, D=d, loss=loss(n, d) * np.exp(noise * rng.standard_normal()))
                        for n in SIZES for d in LENGTHS))  # fmt: skip


def make_trunks(rng: np.random.Generator, shared: float, own: float) -> Points:
    """Forty runs, two seeds of each size at four lengths.

    Log L has noise of two standard deviations: one that the lengths of a size and seed share, and each run's own.
    """
    runs = []
    for n in SIZES:
        for seed in (1, 2):
            luck = shared * rng.standard_normal()
            runs += [Run(N=n, D=d, trunk=f"{n:g}", seed=seed,
                         loss=sound(n, d) * np.exp(luck + own * rng.standard_normal())) for d in LENGTHS]  # fmt: skip
    return Points(tuple(runs))
