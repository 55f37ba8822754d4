"""What a transformer remembers of a text that it continues: keys and values of a window."""

from collections.abc import Sequence

import torch
from torch import Tensor

from megachar.families.transformer.model import Transformer
from megachar.generation.generator import TextState
from megachar.generation.settings import check_prompt, check_slide, default_slide
from megachar.layers.attention import KeyValueCache, new_caches


def text_state(model: Transformer, slide: int | None) -> TextState:
    """See `generation.generator`."""
    return SlidingWindow(model, default_slide(model.config.context) if slide is None else slide)


class SlidingWindow:
    """The text as the model sees it: at most its context of t characters, encoded once and remembered.

    Positions are absolute in every layer, so a cached character cannot change its place. When the window is full, its
    first `slide` characters are dropped and the rest is encoded again from position 0, which buys `slide` characters.
    With slide = 1 every character is predicted from the last t; with more, from at least t - slide + 1.
    """

    def __init__(self, model: Transformer, slide: int) -> None:
        """ConfigError where `slide` is not in [1, t]. The model is in evaluation mode, on any device."""
        assert not model.training, "a model in training mode drops out"
        check_slide(slide, model.config.context)
        self.model = model
        self.slide = slide
        self.symbols: list[int] = []
        """What the next prediction is made from."""
        self._caches: list[KeyValueCache] = []

    def read(self, symbols: Sequence[int]) -> Tensor:
        """Start anew with the last t of `symbols`; logits (v,) of what follows. ConfigError on no symbols."""
        check_prompt(len(symbols))
        self.symbols = list(symbols[-self.model.config.context :])
        self._caches = new_caches(self.model.config.num_layers, self.model.config.context)
        return self._logits(self.symbols)

    def advance(self, symbol: int) -> Tensor:
        """Add one symbol after a `read`; logits (v,) of what follows it."""
        if len(self.symbols) == self.model.config.context:
            return self.read([*self.symbols[self.slide :], symbol])
        self.symbols.append(symbol)
        return self._logits([symbol])

    @torch.inference_mode()
    def _logits(self, new: Sequence[int]) -> Tensor:
        """Encode symbols that are not in the caches yet; logits (v,) after the last of them."""
        inputs = torch.tensor([new], device=self.model.embedding.weight.device)  # (1, s)
        hidden = self.model.hidden(inputs, self._caches)  # (1, s, d)
        return self.model.head(hidden[:, -1])[0]
