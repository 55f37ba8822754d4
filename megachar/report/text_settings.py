"""Which text a report shows. Imports no torch."""

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from megachar.base.errors import ConfigError
from megachar.data.corpus import Corpus
from megachar.generation.settings import SamplingSettings


@dataclass(frozen=True)
class TextSettings:
    """Which text is colored, and how a sample is made."""

    split: str = "valid"
    start: int = 0
    """Its place in the split, in characters."""
    num_characters: int = 2000
    """How many are colored; 0: none."""
    sample_characters: int = 500
    """How many are generated; 0: none."""
    seed: int = 1
    """Of the sample."""
    device: str = "auto"
    threads: int | None = None
    """On a CPU; None: what suits the model, or OMP_NUM_THREADS."""

    def check(self) -> None:
        """ConfigError on the first setting that is out of range."""
        for option, value in (
            ("--text-start", self.start),
            ("--text-characters", self.num_characters),
            ("--characters", self.sample_characters),
        ):
            if value < 0:
                raise ConfigError(f"{option} {value} is below 0; set 0 or more")
        SamplingSettings(seed=self.seed).check(1)

    @property
    def needs_models(self) -> bool:
        """Whether there is any text to be made."""
        return self.num_characters > 0 or self.sample_characters > 0

    def stretch(self, corpus: Corpus) -> tuple[npt.NDArray[Any], int]:
        """The split's tokens, and the place after the stretch in them; ConfigError where it begins after its end."""
        tokens = corpus.split(self.split).tokens
        if self.start >= tokens.size:
            raise ConfigError(
                f"--text-start {self.start}: the {self.split} split of {corpus.folder} has {tokens.size:,} characters; "
                f"set at most {tokens.size - 1}"
            )
        return tokens, min(self.start + self.num_characters, tokens.size)
