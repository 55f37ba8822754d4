"""The options of `megachar evaluate`, and which settings they amount to for a model of either family."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

from megachar.base.errors import ConfigError, DataError
from megachar.cli.shared.groups import option
from megachar.cli.shared.options import Device, Format, Step, Threads
from megachar.config.sections.model import ModelConfig
from megachar.evaluation.settings import (
    PRECISIONS,
    SEGMENT_LENGTH,
    DynamicSettings,
    EvaluationSettings,
    Rule,
    StreamSettings,
    WindowSettings,
)
from megachar.evaluation.windows import STREAMS, WARM_UP, default_stride


@dataclass(frozen=True)
class Chosen:
    """What the options amount to."""

    static: EvaluationSettings
    dynamic: DynamicSettings | None

    def with_training_text(self, num_characters: int) -> "Chosen":
        """With statistics of no more than there are; DataError where they are too few for any."""
        if num_characters < 2:
            raise DataError(
                f"the train split has {num_characters} characters, too few for the mean squares of --dynamic rms; set "
                "--dynamic sgd"
            )
        assert self.dynamic is not None
        dynamic = replace(self.dynamic, statistics=min(self.dynamic.statistics, num_characters))
        return replace(self, dynamic=dynamic)


@dataclass(frozen=True)
class Options:
    """As they were given; None: not given."""

    stride: int | None = option(
        None, "Transformers: characters between windows; 1 is the paper's, and slow. Default: an eighth of the context."
    )
    batch_size: int | None = option(None, "Transformers: windows in one forward pass. Default: 32.")
    processes: int | None = option(
        None, "Transformers: processes that share the work; with CUDA one GPU each. Default: 1."
    )
    streams: int | None = option(
        None, f"Recurrent models: parts of the text read side by side; 1 is the paper's, and slow. Default: {STREAMS}."
    )
    warm_up: int | None = option(
        None, f"Recurrent models: unscored characters before each part but the first. Default: {WARM_UP}."
    )
    step: Step = None
    max_characters: int | None = option(None, "Score only the first so many characters; default: all.")
    precision: str = option("fp32", "bf16 is for the blocks alone.", metavar=f"<{'|'.join(PRECISIONS)}>")
    device: Device = "auto"
    threads: Threads = None
    data: Path | None = option(None, "Corpus folder; default: the one the run was trained on.")
    json: Path | None = option(
        None, "Write the result here too. Default: only in the run folder, or beside an exported file."
    )
    by_position: bool = option(
        False,
        "Also bits by the place in the window, or since the state was zero: a CSV and a picture.",
        "--by-position",
    )
    picture_format: Format = "png"
    dynamic: str | None = option(
        None, "Also score with weights that follow the text. Default: neither.", metavar="<sgd|rms>"
    )
    learning_rate: float | None = option(None, "With --dynamic: of a step. Default: what suits family and rule.")
    decay: float | None = option(
        None, f"With --dynamic: share of the way back at every step; 0 is off. Default: {DynamicSettings.decay:g}."
    )
    epsilon: float | None = option(
        None, f"With --dynamic rms: added to the roots. Default: {DynamicSettings.epsilon:g}."
    )
    segment_length: int | None = option(
        None,
        f"With --dynamic, recurrent models: characters between steps; transformers have the stride. Default: "
        f"{SEGMENT_LENGTH}.",
    )
    dynamic_streams: int | None = option(
        None, "With --dynamic: parts of the text read side by side and learned from together. Default: 1, the paper's."
    )
    statistics: int | None = option(
        None,
        f"With --dynamic rms: characters of the train split for the mean squares, which take most of the time. "
        f"Default: {DynamicSettings.statistics}.",
    )

    def settings(self, model: ModelConfig) -> Chosen:
        """ConfigError on options of the other family, or of dynamic evaluation without it, or out of range."""
        context = model.context_limit
        if context is None:
            length = SEGMENT_LENGTH if self.segment_length is None else self.segment_length
            return Chosen(self._of_streams(), self._dynamic(model, length))
        static = self._of_windows(context)
        return Chosen(static, self._dynamic(model, static.stride))

    def _of_windows(self, context: int) -> WindowSettings:
        for name in ("streams", "warm_up"):
            self._refuse(name, "a transformer carries nothing on and reads windows; leave it out, or set --stride")
        self._refuse("segment_length", "a transformer learns after every stride; set --stride instead")
        stride = default_stride(context) if self.stride is None else self.stride
        given = self._given("batch_size", "processes")
        settings = WindowSettings(stride, precision=self.precision, device=self.device, **given)
        settings.check(context)
        return settings

    def _of_streams(self) -> StreamSettings:
        for name in ("stride", "batch_size"):
            self._refuse(name, "a recurrent model carries its state on and has no windows; leave it out, or set "
                               "--streams")  # fmt: skip
        self._refuse("processes", "a recurrent model reads its streams in one process; leave it out, or set --streams")
        settings = StreamSettings(precision=self.precision, device=self.device, **self._given("streams", "warm_up"))
        settings.check()
        return settings

    def _dynamic(self, model: ModelConfig, segment_length: int) -> DynamicSettings | None:
        names = ("learning_rate", "decay", "epsilon", "dynamic_streams", "statistics")
        if self.dynamic is None:
            for name in (*names, "segment_length"):
                self._refuse(name, "it belongs to dynamic evaluation; add --dynamic rms, or leave it out")
            return None
        if self.dynamic not in get_args(Rule):
            raise ConfigError(f"--dynamic {self.dynamic} is unknown; set sgd or rms")
        if self.dynamic == "sgd":
            for name in ("epsilon", "statistics"):
                self._refuse(name, "sgd divides by no mean squares; leave it out, or set --dynamic rms")
        if self.precision != "fp32":
            raise ConfigError(f"--precision {self.precision}: the weights follow the text in fp32 only; leave it out")
        given = {name.removeprefix("dynamic_"): value for name, value in self._given(*names).items()}
        rule = cast(Rule, self.dynamic)
        rate = model.dynamic_rates[rule]
        settings = replace(DynamicSettings(rule, learning_rate=rate, segment_length=segment_length), **given)
        settings.check()
        return settings

    def _given(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def _refuse(self, name: str, why: str) -> None:
        for given, value in self._given(name).items():
            raise ConfigError(f"--{given.replace('_', '-')} {value}: {why}")
