"""A text in the segments that dynamic evaluation scores and then learns from, and how each family scores one.

A text of N characters is cut into parts that are read side by side, from nothing each; one part is the whole text.

Shapes: b parts, t characters, d width or hidden units, v vocabulary, p scored characters of all parts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Carry = TypeVar("Carry")
Int64 = npt.NDArray[np.int64]
UNSCORED = -1
"""As a target: nothing is scored here."""


@dataclass(frozen=True)
class Segment:
    """Of every part that goes on so long: some characters."""

    inputs: Int64
    """(b, t)."""
    targets: Int64
    """(b, t); `UNSCORED` at positions that give context only, or lie behind the end of a part."""


@dataclass(frozen=True)
class Reading(Generic[Carry]):
    """How a model reads a text."""

    score: Callable[[Segment, Carry], tuple[Tensor, Carry]]
    """From a segment and what was carried on to it: nats of its scored characters (p,), with gradients, and what it
    carries on."""
    segments: Callable[[npt.NDArray[Any]], Iterator[Segment]]
    """Of a text (N,), N at least 2, in its order."""
    begin: Callable[[npt.NDArray[Any]], Carry]
    """What is carried on to the first segment of a text."""


def part_bounds(num_characters: int, segment_length: int, streams: int) -> Int64:
    """Where parts of the text begin and end as inputs, (b + 1,): `streams`, as long as a part is a segment or more."""
    num_inputs = num_characters - 1
    count = max(1, min(streams, num_inputs // segment_length))
    return np.arange(count + 1, dtype=np.int64) * num_inputs // count


def padded(rows: list[tuple[npt.NDArray[Any], npt.NDArray[Any], int]]) -> Segment:
    """A segment of rows of inputs and targets, of which the first so many are not scored."""
    length = max(inputs.size for inputs, _, _ in rows)
    segment = Segment(np.zeros((len(rows), length), np.int64), np.full((len(rows), length), UNSCORED, np.int64))
    for i, (inputs, targets, unscored) in enumerate(rows):
        segment.inputs[i, : inputs.size] = inputs
        segment.targets[i, unscored : targets.size] = targets[unscored:]
    return segment


def nats_of(hidden: Tensor, head: Callable[[Tensor], Tensor], targets: Int64) -> Tensor:
    """Nats (p,) in fp32 from hidden states (b, t, d), of the targets that are scored."""
    rows, columns = np.nonzero(targets != UNSCORED)
    scored = hidden[torch.from_numpy(rows), torch.from_numpy(columns)]  # (p, d)
    logits = head(scored).float()  # (p, v)
    return F.cross_entropy(logits, torch.from_numpy(targets[rows, columns]).to(hidden.device), reduction="none")
