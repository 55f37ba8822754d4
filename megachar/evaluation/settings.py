"""What an evaluation is asked for. Imports no torch."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from megachar.base.errors import ConfigError
from megachar.evaluation.windows import STREAMS, WARM_UP, check_streams, check_stride

Rule = Literal["sgd", "rms"]
PRECISIONS = ("fp32", "bf16")
DEVICES = ("auto", "cpu", "cuda")
SEGMENT_LENGTH = 20
"""Of recurrent models by default: characters between two steps of dynamic evaluation."""


@dataclass(frozen=True)
class WindowSettings:
    """How a transformer scores a text: in windows, each computed afresh."""

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
        _check_machine(self.precision, self.device)

    def rows(self, model: Any) -> int:
        """Characters that a layer of the model computes at once."""
        return self.batch_size * int(model.context)


@dataclass(frozen=True)
class StreamSettings:
    """How a recurrent model scores a text: its state is carried on from the first character to the last."""

    streams: int = STREAMS
    """Contiguous parts of the text that are read side by side; 1 is the paper's."""
    warm_up: int = WARM_UP
    """Characters that every stream but the first reads before those it scores."""
    precision: str = "fp32"
    """`fp32`, or `bf16`: the layers under autocast, cell, classifier and losses in fp32."""
    device: str = "auto"
    """`auto` (CUDA where there is one), `cpu` or `cuda`."""

    def check(self) -> None:
        """ConfigError on the first setting that is out of range."""
        check_streams(self.streams, self.warm_up)
        _check_machine(self.precision, self.device)

    def rows(self, model: Any) -> int:
        """Characters that a layer of the model computes at once."""
        return self.streams


EvaluationSettings = WindowSettings | StreamSettings


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


def default_dynamic(family: str, rule: Rule, segment_length: int) -> DynamicSettings:
    """Learning rates that served small models of Shakespeare best, of several a factor of 3 to 5 apart.

    With three to five times the rate the figure was worse than the static one, but for `rms` on the recurrent model.
    """
    rates = {("recurrent", "sgd"): 0.03, ("recurrent", "rms"): 1e-4,
             ("transformer", "sgd"): 0.001, ("transformer", "rms"): 5e-5}  # fmt: skip
    return DynamicSettings(rule, learning_rate=rates[family, rule], segment_length=segment_length)


def _check_machine(precision: str, device: str) -> None:
    if precision not in PRECISIONS:
        raise ConfigError(f"precision = {precision!r} is unknown; set one of {', '.join(PRECISIONS)}")
    if device not in DEVICES:
        raise ConfigError(f"device = {device!r} is unknown; set one of {', '.join(DEVICES)}")
