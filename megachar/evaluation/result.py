"""What an evaluation is asked for and what it found. Imports no torch."""

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megachar.errors import ConfigError
from megachar.evaluation.windows import check_stride
from megachar.units import bits_per_character

PRECISIONS = ("fp32", "bf16")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class EvaluationSettings:
    """How a text is scored."""

    stride: int
    """Characters from one window to the next; 1 is the paper's."""
    batch_size: int = 32
    """Windows in one forward pass."""
    processes: int = 1
    """Processes that share the batches; with CUDA each has a GPU of its own."""
    precision: str = "fp32"
    """`fp32`, or `bf16`: the blocks under autocast, classifier and losses in fp32."""
    device: str = "auto"
    """`auto` (CUDA where there is one), `cpu` or `cuda`."""

    def check(self, context: int) -> None:
        """ConfigError on the first setting that is out of range, or does not fit a model of that context."""
        check_stride(self.stride, context)
        if self.batch_size < 1:
            raise ConfigError(f"batch size = {self.batch_size}: a batch needs a window; set 1 or more, such as 32")
        if self.processes < 1:
            raise ConfigError(f"processes = {self.processes}: nothing would compute; set 1 or more")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision = {self.precision!r} is unknown; set one of {', '.join(PRECISIONS)}")
        if self.device not in DEVICES:
            raise ConfigError(f"device = {self.device!r} is unknown; set one of {', '.join(DEVICES)}")


@dataclass(frozen=True)
class Evaluation:
    """The loss of a text, one score for each of its characters.

    The very first character has nothing before it and counts as uniform, ln v nats; so characters and scores agree.
    """

    split: str
    step: int
    """Of the checkpoint."""
    settings: EvaluationSettings
    context: int
    num_characters: int
    whole_split: bool
    """False where only the first `num_characters` of the split were scored."""
    nats: float
    """Sum over all characters."""
    seconds: float
    """Wall time of the scoring, without the loading of the model."""

    @property
    def bits_per_character(self) -> float:
        """The headline figure: the last layer's first target."""
        return bits_per_character(self.nats, self.num_characters)

    @property
    def characters_per_second(self) -> float:
        """Scored characters per second of wall time."""
        return self.num_characters / self.seconds

    @property
    def file_name(self) -> str:
        """`evaluation-<split>-stride<S>-step<N>.json`; a partial text and bf16 are named, so as to replace no other."""
        part = "" if self.whole_split else f"-first{self.num_characters}"
        precision = "" if self.settings.precision == "fp32" else f"-{self.settings.precision}"
        return f"evaluation-{self.split}-stride{self.settings.stride}-step{self.step}{part}{precision}.json"

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        return {
            "bits_per_character": self.bits_per_character,
            **{name: value for name, value in asdict(self).items() if name != "settings"},
            "characters_per_second": self.characters_per_second,
            **asdict(self.settings),
        }


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write `values` under a temporary name in the same folder, then rename: `path` is never half a file."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"{path} cannot be written: {error.strerror}; name a file in a writable folder") from error
