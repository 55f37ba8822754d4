"""How a recurrent model scores a text: its state is carried on.

Shapes: b windows, t characters, n hidden units, v vocabulary, p scored positions.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from megachar.evaluation.scoring import Scored, Scorer, place, read_windows, scored_positions, starts
from megachar.evaluation.segments import Reading, Segment, nats_of, padded, part_bounds
from megachar.evaluation.windows import Window
from megachar.families.recurrent.model import RecurrentModel, State, fold

POSITIONS_AT_ONCE: Final = 2048
"""Over all windows: as many as bound memory and still make products large."""


def make_scorer(model: RecurrentModel, device: torch.device, precision: str) -> Scorer:
    """See `evaluation.scoring`."""
    return RecurrentScorer(model, device, precision)


class RecurrentScorer(Scorer):
    """Reads windows from a state of zeros, which it carries on from each piece of them to the next."""

    mend = "--streams"

    def __init__(self, model: RecurrentModel, device: torch.device, precision: str) -> None:
        assert not model.training, "a model in training mode drops out"
        self.model, self.device, self.vocabulary_size = fold(model).to(device), device, model.config.vocabulary_size
        self._autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")

    @torch.no_grad()
    def scored(self, tokens: npt.NDArray[Any], windows: Sequence[Window]) -> Iterator[Scored]:
        """Scored positions of piece after piece of the windows; see `Scorer`."""
        state, classifier = self.model.new_state(len(windows)), self.model.classifier
        step = max(1, POSITIONS_AT_ONCE // len(windows))
        for start in range(0, windows[0].length, step):
            stop = min(start + step, windows[0].length)
            with self.enough_memory(windows):
                with self._autocast:
                    inputs = place(read_windows(tokens, windows, start, stop), self.device)  # (b, t)
                    hidden, state = self.model.hidden(inputs, state)  # (t, b, n)
                rows, columns = scored_positions(windows, start, stop)
                if not rows.size:
                    continue  # all are warming up
                scored = hidden[place(columns - start, self.device), place(rows, self.device)]  # (p, n)
                logits = classifier(scored.to(classifier.weight.dtype))  # (p, v)
            yield Scored(starts(windows)[rows] + columns + 1, logits)


def reading(model: RecurrentModel, device: torch.device, segment_length: int, streams: int) -> Reading[State]:
    """Segments of `segment_length` characters; the state is carried on, gradients are not."""

    def score(segment: Segment, state: State) -> tuple[Tensor, State]:
        hidden, state = model.hidden(torch.from_numpy(segment.inputs).to(device), state)  # (t, b, n)
        return nats_of(hidden.transpose(0, 1), model.classifier, segment.targets), state.detach()

    def segments(tokens: npt.NDArray[Any]) -> Iterator[Segment]:
        bounds = part_bounds(tokens.size, segment_length, streams)
        for start in range(0, int(np.diff(bounds).max()), segment_length):
            begins = bounds[:-1] + start
            ends = np.minimum(begins + segment_length, bounds[1:])
            yield padded([(tokens[a:b], tokens[a + 1 : b + 1], 0) for a, b in zip(begins, ends, strict=True)])

    def begin(tokens: npt.NDArray[Any]) -> State:
        return model.new_state(part_bounds(tokens.size, segment_length, streams).size - 1)

    return Reading(score, segments, begin)
