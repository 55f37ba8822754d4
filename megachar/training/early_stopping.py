"""Ends training once validation has stopped to improve (Krause et al. 2016, without variational dropout)."""

import math
from typing import Any

from megachar.config.experiment import Experiment
from megachar.runs.checkpoints.format import list_checkpoints
from megachar.runs.folder import RunFolder


class EarlyStopping:
    """Counts validations in a row without a new lowest loss. Every rank counts the same figures."""

    def __init__(self, patience: int) -> None:
        """`patience`: how many end training; 0 never does."""
        self.patience = patience
        self._lowest, self._since = math.inf, 0

    @property
    def stops(self) -> bool:
        """Whether training is at its end."""
        return 0 < self.patience <= self._since

    def count(self, validation_bits: float) -> None:
        """One more validation; one that is not a number is no new lowest."""
        if validation_bits < self._lowest:
            self._lowest, self._since = validation_bits, 0
        else:
            self._since += 1

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"lowest_validation": self._lowest if math.isfinite(self._lowest) else None, "since_lowest": self._since}

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave; nothing has been counted yet where a checkpoint holds none."""
        lowest = state.get("lowest_validation")
        self._lowest, self._since = math.inf if lowest is None else lowest, state.get("since_lowest", 0)


def is_finished(folder: RunFolder, experiment: Experiment) -> bool:
    """Whether a run's newest checkpoint is of its end: all steps, or a validation that stopped it."""
    found = list_checkpoints(folder)
    if not found:
        return False
    stopping = EarlyStopping(experiment.training.early_stopping_patience)
    stopping.restore(found[-1].manifest.loop_state)
    return stopping.stops or found[-1].step == experiment.training.total_steps
