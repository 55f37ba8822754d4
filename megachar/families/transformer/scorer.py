"""How a transformer scores a text: in windows, each computed afresh.

Shapes: b windows, t characters, d width, v vocabulary, p scored positions.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from megachar.evaluation.scoring import Scored, Scorer, place, read_windows, scored_positions, starts
from megachar.evaluation.segments import Reading, Segment, nats_of, padded, part_bounds
from megachar.evaluation.windows import Window, WindowPlan
from megachar.families.transformer.model import Transformer


def make_scorer(model: Transformer, device: torch.device, precision: str) -> Scorer:
    """See `evaluation.scoring`."""
    return TransformerScorer(model, device, precision)


class TransformerScorer(Scorer):
    """Moves the model it is given to the device."""

    mend = "--batch-size"

    def __init__(self, model: Transformer, device: torch.device, precision: str) -> None:
        assert not model.training, "a model in training mode drops out"
        self.model, self.device, self.vocabulary_size = model.to(device), device, model.config.vocabulary_size
        self._autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")

    @torch.no_grad()
    def scored(self, tokens: npt.NDArray[Any], windows: Sequence[Window]) -> Iterator[Scored]:
        """All scored positions at once; see `Scorer`."""
        with self.enough_memory(windows):
            inputs = read_windows(tokens, windows, 0, windows[0].length)  # (b, t)
            with self._autocast:
                hidden = self.model.hidden(place(inputs, self.device))  # (b, t, d)
            # The classifier, which is wide, sees scored positions only; outside autocast, for bf16 logits have 8 bits.
            rows, columns = scored_positions(windows, 0, windows[0].length)
            scored = hidden[place(rows, self.device), place(columns, self.device)]  # (p, d)
            logits = self.model.head(scored.to(self.model.embedding.weight.dtype))  # (p, v)
        yield Scored(starts(windows)[rows] + columns + 1, logits)


def reading(model: Transformer, device: torch.device, segment_length: int, streams: int) -> Reading[None]:
    """Segments of `segment_length` characters, each scored by the last positions of one window; nothing is carried on.

    The windows of a part lie as those of its evaluation (`megachar.evaluation.windows`).
    """

    def score(segment: Segment, nothing: None) -> tuple[Tensor, None]:
        return nats_of(model.hidden(torch.from_numpy(segment.inputs).to(device)), model.head, segment.targets), None

    def segments(tokens: npt.NDArray[Any]) -> Iterator[Segment]:
        bounds = part_bounds(tokens.size, segment_length, streams)
        parts = [tokens[begin : end + 1] for begin, end in pairwise(bounds)]
        plans = [WindowPlan(part.size, model.config.context, segment_length) for part in parts]
        for number in range(max(map(len, plans))):
            rows = []
            for part, plan in zip(parts, plans, strict=True):
                if number < len(plan):
                    window = plan.window(number)
                    text = part[window.start : window.start + window.length + 1]
                    rows.append((text[:-1], text[1:], window.length - window.num_scored))
            yield padded(rows)

    return Reading(score, segments, lambda tokens: None)
