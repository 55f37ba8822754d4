"""A text in the segments that dynamic evaluation scores and then learns from, and how each family scores one.

A text of N characters is cut into parts that are read side by side, from nothing each; one part is the whole text.

Shapes: b parts, t characters, d width or hidden units, v vocabulary, p scored characters of all parts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from megachar.evaluation.windows import WindowPlan
from megachar.models.recurrent import RecurrentModel, State
from megachar.models.transformer import Transformer

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


def recurrent_reading(
    model: RecurrentModel, device: torch.device, segment_length: int, streams: int = 1
) -> Reading[State]:
    """Segments of `segment_length` characters; the state is carried on, gradients are not."""

    def score(segment: Segment, state: State) -> tuple[Tensor, State]:
        hidden, state = model.hidden(torch.from_numpy(segment.inputs).to(device), state)  # (t, b, n)
        return _nats(hidden.transpose(0, 1), model.classifier, segment.targets), state.detach()

    def segments(tokens: npt.NDArray[Any]) -> Iterator[Segment]:
        bounds = part_bounds(tokens.size, segment_length, streams)
        for start in range(0, int(np.diff(bounds).max()), segment_length):
            begins = bounds[:-1] + start
            ends = np.minimum(begins + segment_length, bounds[1:])
            yield _padded([(tokens[a:b], tokens[a + 1 : b + 1], 0) for a, b in zip(begins, ends, strict=True)])

    def begin(tokens: npt.NDArray[Any]) -> State:
        return model.new_state(part_bounds(tokens.size, segment_length, streams).size - 1)

    return Reading(score, segments, begin)


def window_reading(model: Transformer, device: torch.device, stride: int, streams: int = 1) -> Reading[None]:
    """Segments of `stride` characters, scored by the last positions of one window, which carries nothing on.

    The windows of a part lie as those of its evaluation (`megachar.evaluation.windows`).
    """

    def score(segment: Segment, nothing: None) -> tuple[Tensor, None]:
        return _nats(model.hidden(torch.from_numpy(segment.inputs).to(device)), model.head, segment.targets), None

    def segments(tokens: npt.NDArray[Any]) -> Iterator[Segment]:
        bounds = part_bounds(tokens.size, stride, streams)
        parts = [tokens[begin : end + 1] for begin, end in pairwise(bounds)]
        plans = [WindowPlan(part.size, model.config.context, stride) for part in parts]
        for number in range(max(map(len, plans))):
            rows = []
            for part, plan in zip(parts, plans, strict=True):
                if number < len(plan):
                    window = plan.window(number)
                    text = part[window.start : window.start + window.length + 1]
                    rows.append((text[:-1], text[1:], window.length - window.num_scored))
            yield _padded(rows)

    return Reading(score, segments, lambda tokens: None)


def part_bounds(num_characters: int, segment_length: int, streams: int) -> Int64:
    """Where parts of the text begin and end as inputs, (b + 1,): `streams`, as long as a part is a segment or more."""
    num_inputs = num_characters - 1
    count = max(1, min(streams, num_inputs // segment_length))
    return np.arange(count + 1, dtype=np.int64) * num_inputs // count


def _padded(rows: list[tuple[npt.NDArray[Any], npt.NDArray[Any], int]]) -> Segment:
    """A segment of rows of inputs and targets, of which the first so many are not scored."""
    length = max(inputs.size for inputs, _, _ in rows)
    segment = Segment(np.zeros((len(rows), length), np.int64), np.full((len(rows), length), UNSCORED, np.int64))
    for i, (inputs, targets, unscored) in enumerate(rows):
        segment.inputs[i, : inputs.size] = inputs
        segment.targets[i, unscored : targets.size] = targets[unscored:]
    return segment


def _nats(hidden: Tensor, head: Callable[[Tensor], Tensor], targets: Int64) -> Tensor:
    """Nats (p,) in fp32 from hidden states (b, t, d), of the targets that are scored."""
    rows, columns = np.nonzero(targets != UNSCORED)
    scored = hidden[torch.from_numpy(rows), torch.from_numpy(columns)]  # (p, d)
    logits = head(scored).float()  # (p, v)
    return F.cross_entropy(logits, torch.from_numpy(targets[rows, columns]).to(hidden.device), reduction="none")
