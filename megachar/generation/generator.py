"""Text, one symbol at a time, from what a model remembers of the text so far."""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import torch
from torch import Tensor

from megachar.generation.sampling import Sampler
from megachar.generation.settings import check_no_slide, check_num_characters, check_prompt, check_slide, default_slide
from megachar.layers.attention import KeyValueCache, new_caches
from megachar.models.recurrent import RecurrentModel, fold
from megachar.models.transformer import Transformer

SYMBOLS_AT_ONCE: Final = 1024
"""Of a prompt, by a recurrent model: what it computes of each before its loop takes 5 n numbers."""


class TextState(Protocol):
    """What a model has read, and what it makes of it."""

    def read(self, symbols: Sequence[int]) -> Tensor:
        """Start anew with `symbols`; logits (v,) of what follows. ConfigError on no symbols."""

    def advance(self, symbol: int) -> Tensor:
        """Add one symbol after a `read`; logits (v,) of what follows it."""


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


def generate(
    model: Transformer | RecurrentModel,
    prompt: Sequence[int],
    num_characters: int,
    sampler: Sampler,
    slide: int | None = None,
) -> Iterator[int]:
    """Continue `prompt`, yielding each symbol as soon as it is chosen.

    Args:
        model: in evaluation mode, on any device.
        prompt: symbols in [0, v), at least one; a transformer sees its last t, the context.
        num_characters: how many to generate.
        sampler: chooses each symbol.
        slide: characters dropped whenever the window is full (`SlidingWindow`); default `default_slide`. None for a
            recurrent model, which has no window (`CarriedState`).

    Raises:
        ConfigError: at the call, not at the first symbol: an empty prompt, no characters, a slide out of range, a slide
            of what has no window.
        CheckpointError: on the way, where the logits are not finite.
    """
    check_prompt(len(prompt))
    check_num_characters(num_characters)
    return _continue(_text_state(model, slide), prompt, num_characters, sampler)


def _text_state(model: Transformer | RecurrentModel, slide: int | None) -> TextState:
    if isinstance(model, RecurrentModel):
        check_no_slide(slide)
        return CarriedState(model)
    return SlidingWindow(model, default_slide(model.config.context) if slide is None else slide)


def _continue(text: TextState, prompt: Sequence[int], num_characters: int, sampler: Sampler) -> Iterator[int]:
    # No inference mode around a yield: it would stay on in the caller's code between two symbols.
    logits = text.read(prompt)
    for remaining in reversed(range(num_characters)):
        symbol = sampler(logits)
        yield symbol
        if remaining:
            logits = text.advance(symbol)
