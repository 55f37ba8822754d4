"""The loss of each scored character of a batch of windows.

Shapes: b windows, t characters, d width, v vocabulary, p scored positions of the whole batch.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from megachar.errors import PlatformError
from megachar.evaluation.windows import Window
from megachar.models.transformer import Transformer


class Scorer:
    """A model on a device, ready to score windows. Moves the model it is given to that device."""

    def __init__(self, model: Transformer, device: torch.device, precision: str) -> None:
        assert not model.training, "a model in training mode drops out"
        self.model = model.to(device)
        self.device = device
        self._autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")

    @torch.inference_mode()
    def nats(self, tokens: npt.NDArray[Any], windows: Sequence[Window]) -> npt.NDArray[np.float64]:
        """Nats of each scored character of `windows` in the text `tokens` (N,): (p,), in the windows' order.

        PlatformError where the device's memory is too small for the batch.
        """
        try:
            nats = self._nats(tokens, windows)
        except torch.OutOfMemoryError as error:
            raise PlatformError(
                f"{self.device} has too little memory for {len(windows)} windows of {windows[0].length} characters; "
                f"set --batch-size {max(1, len(windows) // 2)} or less"
            ) from error
        return nats.double().cpu().numpy()

    def _nats(self, tokens: npt.NDArray[Any], windows: Sequence[Window]) -> torch.Tensor:
        length = windows[0].length
        inputs = np.stack([tokens[w.start : w.start + length] for w in windows])  # (b, t)
        targets = np.concatenate([_targets(tokens, w) for w in windows])  # (p,)
        with self._autocast:
            hidden = self.model.hidden(self._place(inputs))  # (b, t, d)
        # The classifier, which is wide, sees scored positions only; and outside autocast, for bf16 logits have 8 bits.
        scored = hidden.flatten(0, 1)[self._place(_flat_positions(windows))]  # (b t, d) -> (p, d)
        logits = self.model.head(scored.to(self.model.embedding.weight.dtype))  # (p, v)
        return F.cross_entropy(logits, self._place(targets), reduction="none")

    def _place(self, array: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(self.device)


def _targets(tokens: npt.NDArray[Any], window: Window) -> npt.NDArray[Any]:
    """The characters after each scored position."""
    end = window.start + window.length + 1
    return tokens[end - window.num_scored : end]


def _flat_positions(windows: Sequence[Window]) -> npt.NDArray[np.int64]:
    """Numbers of the scored positions (p,) in the batch laid flat, (b t)."""
    length = windows[0].length
    return np.concatenate([np.arange((i + 1) * length - w.num_scored, (i + 1) * length) for i, w in enumerate(windows)])
