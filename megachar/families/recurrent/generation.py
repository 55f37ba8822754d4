"""What a recurrent model remembers of a text that it continues: its state."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from megachar.families.recurrent.model import RecurrentModel, fold
from megachar.generation.generator import TextState
from megachar.generation.settings import check_prompt

SYMBOLS_AT_ONCE: Final = 1024
"""Of a prompt: what is computed of each before the loop over time takes 5 n numbers."""


def text_state(model: RecurrentModel, slide: int | None) -> TextState:
    """See `generation.generator`; there is no window that could slide."""
    return CarriedState(model)


class CarriedState:
    """The text as a recurrent model knows it: the state after its last character, whatever its length."""

    def __init__(self, model: RecurrentModel) -> None:
        """The model is in evaluation mode, on any device; its weights are copied, folded."""
        assert not model.training, "a model in training mode drops out"
        self.model = fold(model)
        self._state = self.model.new_state(1)

    def read(self, symbols: Sequence[int]) -> Tensor:
        """Start anew with all of `symbols`; logits (v,) of what follows. ConfigError on no symbols."""
        check_prompt(len(symbols))
        self._state = self.model.new_state(1)
        for start in range(0, len(symbols), SYMBOLS_AT_ONCE):
            logits = self._logits(symbols[start : start + SYMBOLS_AT_ONCE])
        return logits

    def advance(self, symbol: int) -> Tensor:
        """Add one symbol after a `read`; logits (v,) of what follows it."""
        return self._logits([symbol])

    @torch.inference_mode()
    def _logits(self, new: Sequence[int]) -> Tensor:
        """Carry the state over symbols; logits (v,) after the last of them."""
        inputs = torch.tensor([new], device=self.model.classifier.weight.device)  # (1, s)
        hidden, self._state = self.model.hidden(inputs, self._state)  # (s, 1, n)
        return self.model.classifier(hidden[-1])[0]
