"""How much training a run has had so far, over all of its starts."""

import math
import time
from collections.abc import Sequence
from typing import Any

from megachar.config.experiment import Experiment
from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.families.counting import step_flops
from megachar.losses.auxiliary import silent_from


class Progress:
    """Counts the time and the operations of steps; those that a bad step took back were spent all the same."""

    def __init__(self, experiment: Experiment, text_size: int) -> None:
        """Begin at 0; `text_size`: characters (or tokens) of the training text."""
        self._experiment, self._text_size = experiment, text_size
        self._flops, self._seconds_before, self._since = 0.0, 0.0, time.monotonic()

    def continue_from(self, state: dict[str, Any], steps: int) -> None:
        """Go on from what a checkpoint kept.

        Args:
            state: the checkpoint's. An older megachar kept nothing of this: then operations are those of the settings
                as they are, and time counts from here.
            steps: that were taken before it, with those taken back.
        """
        flops = state.get("flops")
        self._flops = _flops_of(self._experiment, steps) if flops is None else float(flops)
        self._seconds_before, self._since = float(state.get("seconds", 0.0)), time.monotonic()

    def count(self, weights: Sequence[float]) -> None:
        """One more step was taken, with these weights of the layers' losses."""
        experiment = self._experiment
        classifiers = sum(weight > 0 for weight in weights)
        self._flops += step_flops(experiment.model, experiment.auxiliary, experiment.batch.global_size, classifiers)

    def record(self, windows: int) -> dict[str, Any]:
        """What metrics.jsonl keeps, after so many windows were read.

        `seconds` of training, validations and saves included; `characters` read; `epoch`, how often that is the
        training text; `flops`.
        """
        characters = windows * self._experiment.model.window_length
        return {
            "seconds": round(self._seconds, 3),
            "characters": characters,
            "epoch": characters / self._text_size,
            "flops": self._flops,
        }

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"seconds": self._seconds, "flops": self._flops}

    @property
    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._since


def _flops_of(experiment: Experiment, steps: int) -> float:
    """Of the first steps of a run, had it always had these settings."""
    speaking = _steps_with_loss(
        experiment.auxiliary, experiment.model.num_layers, experiment.training.total_steps, steps
    )
    one = step_flops(experiment.model, experiment.auxiliary, experiment.batch.global_size, speaking / max(steps, 1))
    return steps * one


def _steps_with_loss(auxiliary: AuxiliaryConfig, num_layers: int, total_steps: int, steps: int) -> int:
    """How many of the first steps each layer has a loss at, added up over the layers (`layer_weights`)."""
    if not auxiliary.intermediate_layers:
        return steps
    ends = [silent_from(layer, num_layers, total_steps, auxiliary.interval_steps) for layer in range(1, num_layers)]
    return steps + sum(min(steps, math.ceil(end)) for end in ends)
