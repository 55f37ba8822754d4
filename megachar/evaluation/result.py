"""What an evaluation found, and how it was asked for. Imports no torch."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from megachar.base.errors import ConfigError, DataError
from megachar.base.files import atomic_write, json_text, read_regular
from megachar.base.strict_json import parse_object
from megachar.base.units import bits_per_character
from megachar.evaluation.settings import DynamicSettings, EvaluationSettings

MOST_BYTES: Final = 1 << 26
"""Of a result that is read."""


@dataclass(frozen=True)
class Scores:
    """The loss of a text, one score for each of its characters.

    The very first character has nothing before it and counts as uniform, ln v nats; so characters and scores agree.
    """

    num_characters: int
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


@dataclass(frozen=True)
class DynamicEvaluation(Scores):
    """With weights that follow the text. Never without the static figure beside it."""

    settings: DynamicSettings
    """As they were used: a short text has fewer streams, and short training text less for statistics."""
    context: int | None
    """Of the windows; None where state is carried on."""

    @property
    def label(self) -> str:
        """Part of a file's name that says all settings."""
        s = self.settings
        rms = f"-epsilon{_digits(s.epsilon)}-statistics{s.statistics}" if s.rule == "rms" else ""
        streams = f"-streams{s.streams}" if s.streams > 1 else ""
        rate, decay = _digits(s.learning_rate), _digits(s.decay)
        return f"-{s.rule}-rate{rate}-decay{decay}{rms}-segment{s.segment_length}{streams}"

    @property
    def protocol(self) -> str:
        """In words."""
        s = self.settings
        parts = "the text" if s.streams == 1 else f"{s.streams:,} parts of the text side by side, from nothing each"
        state = "state carried on" if self.context is None else f"windows of {self.context:,}"
        rms = f", epsilon {s.epsilon:g}, mean squares of {s.statistics:,} of train" if s.rule == "rms" else ""
        return (
            f"dynamic, a step ({s.rule}, learning rate {s.learning_rate:g}, decay {s.decay:g}{rms}) after every "
            f"{s.segment_length:,} of {parts}, {state}"
        )

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values, for JSON; without settings that the rule does not have."""
        unused = () if self.settings.rule == "rms" else ("epsilon", "statistics")
        return {
            "bits_per_character": self.bits_per_character,
            "protocol": self.protocol,
            "nats": self.nats,
            "seconds": self.seconds,
            "characters_per_second": self.characters_per_second,
            **{name: value for name, value in asdict(self.settings).items() if name not in unused},
        }


@dataclass(frozen=True)
class Evaluation(Scores):
    """With the weights as they were trained."""

    split: str
    step: int
    """Of the checkpoint."""
    settings: EvaluationSettings
    """As they were used: a short text has fewer streams."""
    context: int | None
    """Of the windows; None where state is carried on."""
    whole_split: bool
    """False where only the first `num_characters` of the split were scored."""

    @property
    def protocol(self) -> str:
        """In words."""
        return self.settings.protocol(self.context)

    def file_name(self, text: str) -> str:
        """`evaluation-<text>-stride<S>-step<N>`, or `-streams<S>-`, without a suffix.

        All that another protocol has otherwise is named, so as to replace no other result.
        """
        return f"evaluation-{text}-{self.settings.label}-step{self.step}{self._part}{self._precision}"

    def positions_name(self, text: str) -> str:
        """Of the loss by position, likewise."""
        return f"positions-{text}-step{self.step}{self._part}{self._precision}"

    @property
    def _part(self) -> str:
        return "" if self.whole_split else f"-first{self.num_characters}"

    @property
    def _precision(self) -> str:
        return "" if self.settings.precision == "fp32" else f"-{self.settings.precision}"

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        return {
            "bits_per_character": self.bits_per_character,
            "protocol": self.protocol,
            **{name: value for name, value in asdict(self).items() if name != "settings"},
            "characters_per_second": self.characters_per_second,
            "state": "carried on" if self.settings.carries else "none",
            **vars(self.settings),
        }


class _Figures(BaseModel):
    """What a report shows of scores; results of earlier versions have less."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    bits_per_character: float | None = Field(default=None, ge=0)
    bits_per_byte: float | None = Field(default=None, ge=0)
    word_perplexity: float | None = Field(default=None, ge=0)
    protocol: str = Field(default="", max_length=10_000)


class _StoredResult(_Figures):
    """What a report shows of an evaluation."""

    bits_per_character: float = Field(ge=0)
    split: str | None = None
    step: int | None = Field(default=None, ge=0)
    num_characters: int | None = Field(default=None, ge=0)
    whole_split: bool = True
    precision: str | None = None
    context: int | None = Field(default=None, ge=0)
    stride: int | None = Field(default=None, ge=0)
    dynamic: _Figures | None = None


def read_evaluation(path: Path) -> dict[str, Any]:
    """The values that `publish` of an evaluation wrote into a file; DataError where it holds no such."""
    try:
        values = parse_object(read_regular(path, MOST_BYTES))
        _StoredResult.model_validate(values)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise DataError(f"{path} is no result of an evaluation ({where}: {error.errors()[0]['msg']}); evaluate again"
                        ) from error  # fmt: skip
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; evaluate again") from error
    return values


def _digits(value: float) -> str:
    """As short as can be, but with all digits that tell it from other numbers."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write `values`; see `replace_file`."""
    replace_file(path, lambda file: file.write_text(json_text(values, indent=2) + "\n", encoding="utf-8"))


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` write the file that takes the place of `path` when it is whole; ConfigError where that fails."""
    try:
        with atomic_write(path) as part:
            write(part)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}; name a file in a writable folder") from error
