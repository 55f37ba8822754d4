"""How the next character is chosen. Imports no torch, so that a wrong setting is refused at once."""

import math
import secrets
from dataclasses import dataclass

from megachar.base.errors import ConfigError

MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class SamplingSettings:
    """Temperature, top-k and top-p, in that order; or greedy, which takes none of them."""

    temperature: float | None = None
    """Logits are divided by it; below 1 likely characters become likelier. None: 1."""
    top_k: int | None = None
    """Only the k likeliest characters. None: all."""
    top_p: float | None = None
    """Only the fewest likeliest characters whose probabilities, after the top k, reach p together. None: all."""
    greedy: bool = False
    """Always the likeliest character; of equally likely ones the first of the vocabulary."""
    seed: int | None = None
    """Of the random choices. None: a fresh one."""

    def check(self, vocabulary_size: int) -> None:
        """ConfigError on the first setting that is out of range, or that greedy would ignore."""
        if self.greedy:
            self._check_greedy()
        if self.temperature is not None and not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ConfigError(
                f"temperature = {self.temperature} is not a positive number; "
                "use --greedy for always the likeliest character (what 0 would mean), or set one such as 0.8"
            )
        if self.top_k is not None and not 1 <= self.top_k <= vocabulary_size:
            raise ConfigError(
                f"top-k = {self.top_k} is not from 1 to the model's {vocabulary_size} symbols; "
                "set one in that range, or leave it out for all"
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(
                f"top-p = {self.top_p} is no probability above 0 and up to 1; set one such as 0.95, or 1 for all"
            )
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise ConfigError(f"seed = {self.seed} is not from 0 to {MAX_SEED}; set one in that range")

    def _check_greedy(self) -> None:
        """Settings without effect are errors, not silence."""
        random = {"temperature": self.temperature, "top-k": self.top_k, "top-p": self.top_p, "seed": self.seed}
        for name, value in random.items():
            if value is not None:
                raise ConfigError(
                    f"{name} = {value} has no effect with greedy, which always takes the likeliest character; "
                    f"leave out --{name}, or --greedy"
                )


def default_slide(context: int) -> int:
    """A quarter of the context: at least three quarters of it are seen, one character in t/4 costs a whole window."""
    return max(1, context // 4)


def check_slide(slide: int | None, context: int | None) -> None:
    """ConfigError unless 1 <= slide <= context (in characters), or on any slide where the context has no bound."""
    if slide is None:
        return
    if context is None:
        raise ConfigError(
            f"slide = {slide} has no effect with a recurrent model, which has no window: its state carries on all of "
            "the text; leave out --slide"
        )
    if not 1 <= slide <= context:
        raise ConfigError(
            f"slide = {slide} is not from 1 to the model's context of {context} characters; "
            f"set 1 (exact, slow) or {default_slide(context)} (the default)"
        )


def check_prompt(num_symbols: int) -> None:
    """ConfigError on a prompt without characters."""
    if num_symbols == 0:
        raise ConfigError(
            "the prompt is empty, but the model has no start symbol and predicts only what follows something; "
            "give a prompt of at least one character, such as a line end"
        )


def check_num_characters(num_characters: int) -> None:
    """ConfigError unless at least one character is asked for."""
    if num_characters < 1:
        raise ConfigError(f"characters = {num_characters}: nothing would be generated; set 1 or more")


def fresh_seed() -> int:
    """A seed nobody has chosen, short enough to be copied by hand."""
    return secrets.randbelow(2**31)
