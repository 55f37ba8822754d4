"""The pipeline's schedule as DeepSpeed runs it: one forward, one backward (1F1B), stages exchanging face to face.

Stages take 2 (m + p - 1) turns for m micro-batches and p stages (DeepSpeed's TrainSchedule). In a turn a stage passes a
micro-batch forward or backward, after it has exchanged with a neighbor: with the one below before a forward pass, with
the one above before a backward pass. Both wait until the other is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from megachar.base import mpl
from megachar.base.errors import ConfigError
from megachar.base.pictures import SERIES, PictureFormat, save, style

_FORMATS: Final[dict[str, PictureFormat]] = {".png": "png", ".svg": "svg", ".pdf": "pdf"}
_NUMBERED: Final = 400
"""Passes up to which a picture says which micro-batch each is of."""


@dataclass(frozen=True)
class Pass:
    """One micro-batch through one stage."""

    stage: int
    micro_batch: int
    forward: bool
    start: float
    """Seconds from the start of the step."""
    end: float


def run_schedule(
    forward: Sequence[float], backward: Sequence[float], exchange: float, micro_batches: int
) -> list[Pass]:
    """All passes of a step.

    Args:
        forward: seconds of a micro-batch's forward pass in each stage.
        backward: likewise of its backward pass.
        exchange: seconds to hand a hidden state, or a gradient, to a neighbor.
        micro_batches: m.
    """
    count = len(forward)
    free = [0.0] * count
    passes = []
    for turn in range(2 * (micro_batches + count - 1)):
        for stage in range(1, count):
            if (turn - stage) % 2 == 0:
                sent = _num_exchanged(turn, stage, count, micro_batches)
                if sent:
                    free[stage - 1] = free[stage] = max(free[stage - 1], free[stage]) + sent * exchange
        for stage in range(count):
            is_forward, number = _at(turn, stage, count)
            if 0 <= number < micro_batches:
                end = free[stage] + (forward if is_forward else backward)[stage]
                passes.append(Pass(stage, number, is_forward, free[stage], end))
                free[stage] = end
    return passes


def _at(turn: int, stage: int, count: int) -> tuple[bool, int]:
    """Whether a stage passes forward in a turn, and which micro-batch, which need not be one of the step's."""
    if (turn - stage) % 2 == 0:
        return True, (turn - stage) // 2
    return False, (turn - (2 * count - 1 - stage)) // 2


def _num_exchanged(turn: int, stage: int, count: int, micro_batches: int) -> int:
    """What a stage that passes forward gets from, and gives to, the one below: a hidden state, a gradient, or both."""
    _, comes = _at(turn, stage, count)
    _, goes = _at(turn - 1, stage, count)
    return (0 <= comes < micro_batches) + (0 <= goes < micro_batches)


def picture_format(path: Path) -> PictureFormat:
    """What a picture of that name is; ConfigError where it is none."""
    if path.suffix not in _FORMATS:
        raise ConfigError(f"--picture {path} must end in one of {', '.join(_FORMATS)}")
    return _FORMATS[path.suffix]


@style()
def draw_schedule(passes: Sequence[Pass], title: str, path: Path) -> Path:
    """Draw a step: a row for each stage, a box for each pass."""
    stages = 1 + max(one.stage for one in passes)
    figure = mpl.figure.Figure(figsize=(11, 1.6 + 0.32 * min(stages, 32)), layout="constrained")
    axes = figure.subplots()
    for forward, color, label in ((True, SERIES[0], "forward"), (False, SERIES[1], "backward")):
        for stage in range(stages):
            boxes = [(1e3 * one.start, 1e3 * (one.end - one.start)) for one in passes
                     if one.forward == forward and one.stage == stage]  # fmt: skip
            axes.broken_barh(boxes, (stage - 0.4, 0.8), facecolors=color, edgecolor="white", linewidth=0.5,
                             label=label if stage == 0 else None)  # fmt: skip
    for one in passes if len(passes) <= _NUMBERED else ():
        axes.text(500 * (one.start + one.end), one.stage, str(one.micro_batch), ha="center", va="center",
                  color="white", fontsize=6, clip_on=True)  # fmt: skip
    axes.invert_yaxis()
    axes.set_yticks(range(0, stages, max(1, stages // 16)))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("milliseconds")
    axes.set_ylabel("stage")
    axes.set_title(title)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return save(figure, path, picture_format(path))
