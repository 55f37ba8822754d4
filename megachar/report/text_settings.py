"""Which text a report shows. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from megachar.base.errors import ConfigError
from megachar.cli.shared.groups import option
from megachar.cli.shared.options import Device, Split, Threads, check_device
from megachar.data.corpus import Corpus
from megachar.generation.settings import SamplingSettings


@dataclass(frozen=True)
class TextSettings:
    """Which text is colored, and how a sample is made."""

    sample_characters: int = option(500, "Characters of each run's sample; 0: none.", "--characters")
    seed: int = option(1, "Of the samples.")
    num_characters: int = option(2000, "Characters colored by surprise; 0: none.", "--text-characters")
    start: int = option(0, "Where they begin in the split, in characters.", "--text-start")
    split: Split = "valid"
    data: Path | None = option(None, "Corpus folder; default: the first that each run was trained on.")
    device: Device = "auto"
    threads: Threads = None

    def check(self) -> None:
        """ConfigError on the first setting that is out of range."""
        for name, value in (
            ("--text-start", self.start),
            ("--text-characters", self.num_characters),
            ("--characters", self.sample_characters),
        ):
            if value < 0:
                raise ConfigError(f"{name} {value} is below 0; set 0 or more")
        SamplingSettings(seed=self.seed).check(1)
        check_device(self.device)

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
