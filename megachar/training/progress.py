"""How much training a run has had so far, over all of its starts."""

import math
import time
from typing import Any

from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.config.sections.model import ModelConfig
from megachar.families.counting import step_flops
from megachar.losses.auxiliary import silent_from


class Progress:
    """Counts the time and the operations of steps; those that a bad step took back were spent all the same."""

    def __init__(self, window_length: int, text_size: int) -> None:
        """Begin at 0; `text_size`: characters (or tokens) of the training text."""
        self._window_length, self._text_size = window_length, text_size
        self._flops, self._seconds_before, self._since = 0.0, 0.0, time.monotonic()

    def continue_from(self, state: dict[str, Any], flops: float) -> None:
        """Go on from what a checkpoint kept.

        Args:
            state: the checkpoint's. An older megachar kept nothing of this: then time counts from here.
            flops: operations, where it kept none.
        """
        kept = state.get("flops")
        self._flops = flops if kept is None else float(kept)
        self._seconds_before, self._since = float(state.get("seconds", 0.0)), time.monotonic()

    def count(self, flops: float) -> None:
        """One more step was taken, of so many operations."""
        self._flops += flops

    def record(self, windows: int) -> dict[str, Any]:
        """What metrics.jsonl keeps, after so many windows were read.

        `seconds` of training, validations and saves included; `characters` read; `epoch`, how often that is the
        training text; `flops`.
        """
        characters = windows * self._window_length
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


def flops_of_steps(
    model: ModelConfig, auxiliary: AuxiliaryConfig, num_windows: int, total_steps: int, steps: int
) -> float:
    """Operations of the first steps of a run, had it always had these settings, over so many windows each."""
    speaking = _steps_with_loss(auxiliary, model.num_layers, total_steps, steps)
    return steps * step_flops(model, auxiliary, num_windows, speaking / max(steps, 1))


def _steps_with_loss(auxiliary: AuxiliaryConfig, num_layers: int, total_steps: int, steps: int) -> int:
    """How many of the first steps each layer has a loss at, added up over the layers (`layer_weights`)."""
    if not auxiliary.intermediate_layers:
        return steps
    ends = [silent_from(layer, num_layers, total_steps, auxiliary.interval_steps) for layer in range(1, num_layers)]
    return steps + sum(min(steps, math.ceil(end)) for end in ends)
