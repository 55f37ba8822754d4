"""Which steps are bad, and what is done about them. Host arithmetic on figures that all ranks share.

Skipping the batches around a spike and going on from an earlier checkpoint is what Chowdhery et al. (2022), section
5.1, did by hand.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from megachar.base.errors import DivergenceError
from megachar.config.sections.training import GuardConfig
from megachar.parallel.engine import StepFigures, TrainingEngine

MAD_TO_DEVIATION = 1.4826
"""Standard deviations in one median absolute deviation, if errors are normal."""


@dataclass(frozen=True)
class BadStep:
    """A step whose update was not taken."""

    step: int
    """Counted from 1, as in everything shown."""
    reason: str
    figures: StepFigures
    consecutive: int
    """Bad steps in a row, this one included."""

    @property
    def record(self) -> dict[str, Any]:
        """What metrics.jsonl keeps of it; figures that are not finite are left to `reason`."""
        figures = {"loss_nats": self.figures.loss_nats, "gradient_norm": self.figures.gradient_norm}
        finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        return {"reason": self.reason, "consecutive": self.consecutive, **finite}


class Guard:
    """Judges every step before its update, and keeps where in the order of batches training is."""

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self.skipped_batches = 0
        """Step s (from 0) reads the micro-batches numbered s + this: rollbacks went past so many steps' worth."""
        self._losses: deque[float] = deque(maxlen=config.window)
        self._norms: deque[float] = deque(maxlen=config.window)
        self._refused: tuple[str, StepFigures] | None = None
        self._consecutive, self._last_bad = 0, 0

    def watch(self, engine: TrainingEngine, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept, and judge the engine's steps from now on, unless that is off."""
        self.restore(state)
        if self.config.action != "off":
            engine.guard_steps(self.accept)

    def accept(self, figures: StepFigures) -> bool:
        """Whether to take the step at hand: the judge that `TrainingEngine.guard_steps` asks."""
        reason = self._find_fault(figures)
        self._refused = (reason, figures) if reason is not None else None
        if reason is None:
            self._losses.append(figures.loss_nats)
            self._norms.append(figures.gradient_norm)
        return reason is None

    def review(self, step: int) -> BadStep | None:
        """After step number `step` (from 1): what was wrong with it, if its update was refused.

        Raises:
            DivergenceError: it is the `max_consecutive`-th in a row. A row ends where a good step goes past it.
        """
        refused, self._refused = self._refused, None
        if refused is None:
            if step >= self._last_bad:
                self._consecutive = 0
            return None
        self._consecutive, self._last_bad = self._consecutive + 1, step
        bad = BadStep(step, *refused, self._consecutive)
        if bad.consecutive >= self.config.max_consecutive:
            raise DivergenceError(
                f"{bad.consecutive} bad steps in a row, the last at step {step}: {bad.reason}; lower "
                f"optimizer.learning_rate, look at the data and the ranks named, or allow more by guard.max_consecutive"
            )
        return bad

    def go_back(self, saved: dict[str, Any], first: int, last: int) -> None:
        """Return from `last` steps to the checkpoint of `first` steps, whose `state` was `saved`.

        The batches of the steps between are gone past. The row of bad steps goes on: the way there is no progress.
        """
        skipped, consecutive, last_bad = self.skipped_batches + last - first, self._consecutive, self._last_bad
        self.restore(saved)
        self.skipped_batches, self._consecutive, self._last_bad = skipped, consecutive, last_bad

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that a resumed run judges and reads as the run that never stopped."""
        return {
            "skipped_batches": self.skipped_batches,
            "losses": list(self._losses),
            "norms": list(self._norms),
            "consecutive": self._consecutive,
            "last_bad": self._last_bad,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave; nothing has been seen yet where a checkpoint holds none."""
        self.skipped_batches = state.get("skipped_batches", 0)
        self._losses = deque(state.get("losses", ()), maxlen=self.config.window)
        self._norms = deque(state.get("norms", ()), maxlen=self.config.window)
        self._consecutive, self._last_bad = state.get("consecutive", 0), state.get("last_bad", 0)

    def _find_fault(self, figures: StepFigures) -> str | None:
        where = f" (seen on {', '.join(figures.suspects)})" if figures.suspects else ""
        for name, value, history in (
            ("loss", figures.loss_nats, self._losses),
            ("gradient norm", figures.gradient_norm, self._norms),
        ):
            if not math.isfinite(value):
                return f"the {name} is {value}{where}"
            limit = self._limit(history)
            if value > limit:
                return (
                    f"the {name} is {value:.4g}, above {limit:.4g}; the median of the {len(history)} good steps "
                    f"before is {median(history):.4g}"
                )
        return None

    def _limit(self, history: Sequence[float]) -> float:
        """The highest value that is not a spike; infinite until there are enough good steps."""
        if self.config.spike_deviations == 0 or len(history) < self.config.window:
            return math.inf
        middle = median(history)
        deviation = MAD_TO_DEVIATION * median(abs(value - middle) for value in history)
        return middle + max(self.config.spike_deviations * deviation, self.config.spike_fraction * middle)
