"""Text, one symbol at a time, from what a model remembers of the text so far."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor

from megachar.families.model import Model
from megachar.generation.sampling import Sampler
from megachar.generation.settings import check_num_characters, check_prompt, check_slide


class TextState(Protocol):
    """What a model has read, and what it makes of it."""

    def read(self, symbols: Sequence[int]) -> Tensor:
        """Start anew with `symbols`; logits (v,) of what follows. ConfigError on no symbols."""

    def advance(self, symbol: int) -> Tensor:
        """Add one symbol after a `read`; logits (v,) of what follows it."""


def generate(
    model: Model, prompt: Sequence[int], num_characters: int, sampler: Sampler, slide: int | None = None
) -> Iterator[int]:
    """Continue `prompt`, yielding each symbol as soon as it is chosen.

    Args:
        model: in evaluation mode, on any device.
        prompt: symbols in [0, v), at least one; a transformer sees its last t, the context.
        num_characters: how many to generate.
        sampler: chooses each symbol.
        slide: characters dropped whenever the window is full; default `default_slide`. None for a model that has no
            window.

    Raises:
        ConfigError: at the call, not at the first symbol: an empty prompt, no characters, a slide out of range, a slide
            of what has no window.
        CheckpointError: on the way, where the logits are not finite.
    """
    check_prompt(len(prompt))
    check_num_characters(num_characters)
    check_slide(slide, model.config.context_limit)
    text: TextState = model.config.part("generation").text_state(model, slide)
    return _continue(text, prompt, num_characters, sampler)


def _continue(text: TextState, prompt: Sequence[int], num_characters: int, sampler: Sampler) -> Iterator[int]:
    # No inference mode around a yield: it would stay on in the caller's code between two symbols.
    logits = text.read(prompt)
    for remaining in reversed(range(num_characters)):
        symbol = sampler(logits)
        yield symbol
        if remaining:
            logits = text.advance(symbol)
