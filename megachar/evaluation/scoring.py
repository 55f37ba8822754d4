"""What a model predicts at the scored positions of windows that are read side by side.

Shapes: b windows, t characters, d width or hidden units, v vocabulary, p scored positions.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from megachar.base.errors import PlatformError
from megachar.evaluation.windows import Window, WindowPlan
from megachar.families.model import Model


@dataclass(frozen=True)
class Scored:
    """Some scored positions."""

    places: npt.NDArray[np.int64]
    """Of the characters they predict in the text, (p,)."""
    logits: Tensor
    """(p, v), on the model's device."""


class Scorer(ABC):
    """A model on a device, ready to score windows, which all are of one length in one call."""

    vocabulary_size: int
    device: torch.device
    mend: str
    """Option whose value to lower where memory is too small."""

    @abstractmethod
    def scored(self, tokens: npt.NDArray[Any], windows: Sequence[Window]) -> Iterator[Scored]:
        """All scored positions of windows of the text `tokens` (N,); those of one window in their order.

        PlatformError where the device's memory is too small.
        """

    def nats(self, tokens: npt.NDArray[Any], windows: Sequence[Window]) -> npt.NDArray[np.float64]:
        """Nats of the characters that the windows score: (p,), in the windows' order, which is the text's."""
        parts = [(scored.places, self.nats_of(scored, tokens)) for scored in self.scored(tokens, windows)]
        places, nats = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return nats[np.argsort(places)]

    def nats_of_all(
        self, tokens: npt.NDArray[Any], plan: WindowPlan, batch_size: int
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
        """Places in the text and nats of the characters that a plan's windows score, (p,) each, batch after batch."""
        for number in range(plan.num_batches(batch_size)):
            for scored in self.scored(tokens, plan.batch(number, batch_size)):
                yield scored.places, self.nats_of(scored, tokens)

    def log_probabilities(self, tokens: npt.NDArray[Any], windows: Sequence[Window]) -> Iterator[Tensor]:
        """Of the characters that the windows score, all v of them: (p, v) each, fp32 on the CPU, in the text's order.

        One window is never held as a whole.
        """
        parts = ((s.places, s.logits.float().log_softmax(-1).cpu()) for s in self.scored(tokens, windows))
        if len(windows) == 1:
            yield from (part for _, part in parts)
            return
        places, rows = zip(*parts, strict=True)
        yield torch.cat(rows)[torch.from_numpy(np.argsort(np.concatenate(places)))]

    def nats_of(self, scored: Scored, tokens: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Nats of the characters at these positions, (p,)."""
        targets = place(tokens[scored.places], self.device)
        return F.cross_entropy(scored.logits, targets, reduction="none").double().cpu().numpy()

    @contextmanager
    def enough_memory(self, windows: Sequence[Window]) -> Iterator[None]:
        """A device that runs out of memory here, as an error that says which option to lower."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise PlatformError(
                f"{self.device} has too little memory for {len(windows)} windows of {windows[0].length} characters; "
                f"set {self.mend} {max(1, len(windows) // 2)} or less"
            ) from error


def make_scorer(model: Model, device: torch.device, precision: str) -> Scorer:
    """The scorer of the model's family. `precision`: fp32, or bf16 for all but the classifier and the losses."""
    scorer: Scorer = model.config.part("scorer").make_scorer(model, device, precision)
    return scorer


def place(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Integers of any type as a tensor for indexing on the device."""
    return torch.from_numpy(array.astype(np.int64)).to(device)


def read_windows(tokens: npt.NDArray[Any], windows: Sequence[Window], start: int, stop: int) -> npt.NDArray[Any]:
    """Inputs [start, stop) of every window, (b, t)."""
    return np.stack([tokens[w.start + start : w.start + stop] for w in windows])


def starts(windows: Sequence[Window]) -> npt.NDArray[np.int64]:
    """Where they begin in the text."""
    return np.array([w.start for w in windows], dtype=np.int64)


def scored_positions(
    windows: Sequence[Window], start: int, stop: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Window and position in it, (p,) each, of the scored positions among [start, stop), window after window."""
    first = np.array([w.length - w.num_scored for w in windows])
    rows, columns = np.nonzero(np.arange(start, stop) >= first[:, None])  # (b, t)
    return rows.astype(np.int64), columns.astype(np.int64) + start
