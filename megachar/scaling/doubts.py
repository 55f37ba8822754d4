"""What a ladder cannot answer, said before it is trained."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from megachar.scaling.ladder import LadderRun

CHARACTERS_PER_PARAMETER: Final = 90.0
"""About what is best for bytes (Limisiewicz et al. 2026)."""
MOST_PASSES: Final = 4.0
"""Over the text, up to which repeating costs almost nothing (Muennighoff et al. 2023)."""
TIED: Final = 0.9
"""Correlation of logarithms from which two quantities cannot be told apart."""
LONGEST_WARM_UP: Final = 0.1


def doubts_about(runs: Sequence[LadderRun], text_size: int) -> list[str]:
    """Sentences, each with its number; `text_size`: characters of the training text."""
    fitted = [run for run in runs if not run.held_out]
    accounts = [run.account for run in fitted]
    characters = np.array([account.characters for account in accounts], dtype=np.float64)
    products = np.array([account.products for account in accounts])
    experiments = [run.run.experiment for run in fitted]
    found = []
    ratios = characters / products
    if ratios.max() < CHARACTERS_PER_PARAMETER or ratios.min() > CHARACTERS_PER_PARAMETER:
        found.append(f"characters per parameter go from {ratios.min():.3g} to {ratios.max():.3g}, and what is best for "
                     f"bytes, about {CHARACTERS_PER_PARAMETER:g}, is outside: add lengths or sizes")  # fmt: skip
    depths = np.array([experiment.model.num_layers for experiment in experiments], dtype=np.float64)
    widths = np.array([getattr(experiment.model, "width", 0) for experiment in experiments], dtype=np.float64)
    for one, other, names in ((depths, widths, "depth and width"), (characters, products, "characters and parameters")):
        correlation = _correlation(one, other)
        if correlation > TIED:
            found.append(f"{names} grow together (correlation of logarithms {correlation:.2f}): what each does cannot "
                         f"be told apart; cross them")  # fmt: skip
    shortest = min(experiments, key=lambda experiment: experiment.training.total_steps)
    share = shortest.schedule.warmup_steps / shortest.training.total_steps
    if share > LONGEST_WARM_UP:
        found.append(f"the warm-up of {shortest.schedule.warmup_steps} steps is {share:.0%} of the shortest run; set "
                     f"schedule.warmup_steps={max(1, shortest.training.total_steps // 10)}")  # fmt: skip
    passes = max(run.account.characters for run in runs) / text_size
    if passes > MOST_PASSES:
        found.append(f"the longest run passes the text {passes:.1f} times, and beyond {MOST_PASSES:g} times repeating "
                     f"costs; take a larger corpus or shorter runs")  # fmt: skip
    if len(fitted) < 8:
        found.append(f"{len(fitted)} runs are few: intervals will be wide; train 8 or more")
    if len(fitted) == len(runs):
        found.append("no run is held out, so no prediction will be tested; name one under held_out")
    return found


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Of logarithms; 0 where one of them does not vary."""
    if min(one.min(), other.min()) <= 0 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(np.corrcoef(np.log(one), np.log(other))[0, 1])
