"""What an evaluation is asked for. Imports no torch."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

from megachar.base.errors import ConfigError
from megachar.evaluation.windows import (
    STREAMS,
    WARM_UP,
    WindowPlan,
    check_batch_size,
    check_streams,
    check_stride,
    stream_plan,
)

Rule = Literal["sgd", "rms"]
PRECISIONS = ("fp32", "bf16")
DEVICES = ("auto", "cpu", "cuda")
SEGMENT_LENGTH = 20
"""Of recurrent models by default: characters between two steps of dynamic evaluation."""


class EvaluationSettings:
    """How a model scores a text, and what is said of that."""

    precision: str
    device: str
    processes: int = 1
    """That share the batches."""
    carries: ClassVar[bool]
    """Whether the model carries a state on, and so has no bound on its context."""

    def check(self, context: int | None) -> None:
        """ConfigError on the first setting that is out of range, or does not fit a model of that context limit."""
        assert self.carries == (context is None), "windows are for models with a bound on their context"
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision = {self.precision!r} is unknown; set one of {', '.join(PRECISIONS)}")
        if self.device not in DEVICES:
            raise ConfigError(f"device = {self.device!r} is unknown; set one of {', '.join(DEVICES)}")

    def plan(self, num_characters: int, context: int | None) -> WindowPlan:
        """The windows of a text, by a model of that context limit."""
        raise NotImplementedError

    def used_for(self, plan: WindowPlan) -> "EvaluationSettings":
        """As they are used: a short text has fewer streams."""
        return self

    @property
    def side_by_side(self) -> int:
        """Windows in one forward pass."""
        raise NotImplementedError

    def rows(self, context: int | None) -> int:
        """Characters that a layer of the model computes at once."""
        return self.side_by_side * (context or 1)

    def protocol(self, context: int | None) -> str:
        """The reading in words."""
        raise NotImplementedError

    def advice(self, context: int | None, unit: str) -> str:
        """The reading in words for people, who may want the paper's."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        """The part of a file's name that says how the text was read."""
        raise NotImplementedError


@dataclass(frozen=True)
class WindowSettings(EvaluationSettings):
    """How a transformer scores a text: in windows, each computed afresh."""

    carries: ClassVar = False

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

    def check(self, context: int | None) -> None:
        """See `EvaluationSettings`."""
        super().check(context)
        assert context is not None
        check_stride(self.stride, context)
        check_batch_size(self.batch_size)
        if self.processes < 1:
            raise ConfigError(f"processes = {self.processes}: nothing would compute; set 1 or more")

    def plan(self, num_characters: int, context: int | None) -> WindowPlan:
        """See `EvaluationSettings`."""
        assert context is not None
        return WindowPlan(num_characters, context, self.stride)

    @property
    def side_by_side(self) -> int:
        """See `EvaluationSettings`."""
        return self.batch_size

    def protocol(self, context: int | None) -> str:
        """See `EvaluationSettings`."""
        return f"static, windows of {context:,} computed afresh with a stride of {self.stride:,}"

    def advice(self, context: int | None, unit: str) -> str:
        """See `EvaluationSettings`."""
        assert context is not None
        if self.stride == 1:
            return "windows with a stride of 1: each from the whole context (the paper's protocol)"
        least = context - self.stride + 1
        return f"windows with a stride of {self.stride:,}: each from at least {least:,}; the paper's is 1"

    @property
    def label(self) -> str:
        """See `EvaluationSettings`."""
        return f"stride{self.stride}"


@dataclass(frozen=True)
class StreamSettings(EvaluationSettings):
    """How a recurrent model scores a text: its state is carried on from the first character to the last."""

    carries: ClassVar = True

    streams: int = STREAMS
    """Contiguous parts of the text that are read side by side; 1 is the paper's."""
    warm_up: int = WARM_UP
    """Characters that every stream but the first reads before those it scores."""
    precision: str = "fp32"
    """`fp32`, or `bf16`: the layers under autocast, cell, classifier and losses in fp32."""
    device: str = "auto"
    """`auto` (CUDA where there is one), `cpu` or `cuda`."""

    def check(self, context: int | None = None) -> None:
        """See `EvaluationSettings`."""
        super().check(context)
        check_streams(self.streams, self.warm_up)

    def plan(self, num_characters: int, context: int | None) -> WindowPlan:
        """See `EvaluationSettings`."""
        return stream_plan(num_characters, self.streams, self.warm_up)

    def used_for(self, plan: WindowPlan) -> "StreamSettings":
        """See `EvaluationSettings`."""
        count = max(1, len(plan))
        return replace(self, streams=count, warm_up=self.warm_up if count > 1 else 0)

    @property
    def side_by_side(self) -> int:
        """See `EvaluationSettings`."""
        return self.streams

    def protocol(self, context: int | None) -> str:
        """See `EvaluationSettings`."""
        if self.streams == 1:
            return "static, state carried on over the text"
        return (
            f"static, state carried on over {self.streams:,} streams side by side, with a warm-up of {self.warm_up:,}"
        )

    def advice(self, context: int | None, unit: str) -> str:
        """See `EvaluationSettings`."""
        if self.streams == 1:
            return "the whole text with its state carried on (the paper's protocol)"
        return f"{self.streams:,} streams with their state carried on, after {self.warm_up:,} {unit}s of warm-up"

    @property
    def label(self) -> str:
        """See `EvaluationSettings`."""
        return f"streams{self.streams}" + (f"-warmup{self.warm_up}" if self.streams > 1 else "")


@dataclass(frozen=True)
class DynamicSettings:
    """How the weights follow the text in dynamic evaluation (Krause et al. 2017)."""

    rule: Rule = "rms"
    """`sgd`: the gradient itself; `rms`: over the root of its mean square on the training data, which scales the decay
    as well."""
    learning_rate: float = 5e-5
    """Of a step along the mean gradient of a segment, in nats per character."""
    decay: float = 0.001
    """Share of the way back to the trained weights that every step goes, on average; 0 is off."""
    epsilon: float = 1e-3
    """Of `rms`: added to the roots of the mean squares."""
    segment_length: int = SEGMENT_LENGTH
    """Characters scored between two steps, of every stream. A transformer scores them by one window: its stride."""
    streams: int = 1
    """Parts of the text that are read side by side, from nothing each, and learned from together; 1 is the paper's."""
    statistics: int = 100_000
    """Of `rms`: characters of training text that the mean squares are taken from."""

    def check(self) -> None:
        """ConfigError on the first setting that is out of range."""
        if self.rule not in get_args(Rule):
            raise ConfigError(f"rule = {self.rule!r} of dynamic evaluation is unknown; set sgd or rms")
        if not self.learning_rate > 0:
            raise ConfigError(
                f"learning rate = {self.learning_rate} of dynamic evaluation changes nothing; set more than 0, such as "
                "5e-5 with rms"
            )
        if not 0 <= self.decay <= 1:
            raise ConfigError(f"decay = {self.decay} of dynamic evaluation is no share; set 0 (off) to 1")
        if not self.epsilon > 0:
            raise ConfigError(f"epsilon = {self.epsilon} of dynamic evaluation lets steps grow without end; set 1e-3")
        if self.segment_length < 1:
            raise ConfigError(f"segment length = {self.segment_length} of dynamic evaluation is no text; set 20")
        if self.streams < 1:
            raise ConfigError(f"streams = {self.streams} of dynamic evaluation read nothing; set 1 (the paper's)")
        if self.statistics < 2:
            raise ConfigError(
                f"statistics = {self.statistics} characters of training text have no gradient; set some 100000"
            )
