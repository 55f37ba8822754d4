"""Dynamic evaluation (Krause et al. 2017): the model goes on learning from the text that it has just been scored on.

Every segment is scored first, with weights that have seen nothing of it or of what follows it; then its gradient
changes them, and they decay back to the trained ones. The figure is one of its own, beside the static one.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megachar.errors import CheckpointError, ConfigError
from megachar.evaluation.windows import WindowPlan
from megachar.models.recurrent import RecurrentModel, State
from megachar.models.transformer import Transformer

Carry = TypeVar("Carry")
Segment = TypeVar("Segment")
Score = Callable[[Segment, Carry], tuple[Tensor, Carry]]
"""From a segment and what was carried on to it: nats of each of its characters (p,), with gradients, and what it
carries on."""
MeanSquares = dict[str, Tensor]
"""Mean squared gradient of each parameter, by name."""


@dataclass(frozen=True)
class DynamicSettings:
    """How the weights follow the text."""

    rule: Literal["sgd", "rms"] = "rms"
    """`sgd`: the gradient itself; `rms`: over the root of its mean square on the training data, which scales the decay
    as well."""
    learning_rate: float = 2e-5
    """Of a step along the mean gradient of a segment, in nats per character."""
    decay: float = 0.02
    """Share of the way back to the trained weights that every step goes, on average; 0 is off."""
    epsilon: float = 1e-5
    """Added to the roots of the mean squares."""
    segment_length: int = 20
    """Characters scored between two steps."""

    def check(self) -> None:
        """ConfigError on the first setting that is out of range."""
        if self.rule not in ("sgd", "rms"):
            raise ConfigError(f"rule = {self.rule!r} of dynamic evaluation is unknown; set sgd or rms")
        if not self.learning_rate > 0:
            raise ConfigError(
                f"learning rate = {self.learning_rate} of dynamic evaluation changes nothing; set more than 0, such as "
                "2e-5 with rms"
            )
        if not 0 <= self.decay <= 1:
            raise ConfigError(f"decay = {self.decay} of dynamic evaluation is no share; set 0 (off) to 1")
        if not self.epsilon > 0:
            raise ConfigError(f"epsilon = {self.epsilon} of dynamic evaluation lets steps grow without end; set 1e-5")
        if self.segment_length < 1:
            raise ConfigError(f"segment length = {self.segment_length} of dynamic evaluation is no text; set 20")


def dynamic_nats(
    model: nn.Module,
    score: Score[Segment, Carry],
    segments: Iterable[Segment],
    carry: Carry,
    settings: DynamicSettings,
    mean_squares: MeanSquares | None = None,
) -> Generator[npt.NDArray[np.float64], None, None]:
    """Nats of the characters of each segment (p,), in order, while the weights follow the text.

    The model has its trained weights back when the generator ends or is closed.

    Args:
        model: whose parameters change; in evaluation mode.
        score: computes a segment with them.
        segments: in the order of the text.
        carry: what the first segment is given.
        settings: the rule.
        mean_squares: for rule `rms`, from `collect_mean_squares`.

    Raises:
        ConfigError: a setting is out of range, or the mean squares are missing.
        CheckpointError: the loss is not a finite number.
    """
    settings.check()
    if settings.rule == "rms" and mean_squares is None:
        raise ConfigError("rule = rms of dynamic evaluation needs mean squares from the training text; set rule = sgd")
    with _restored(model) as trained:
        rates = _rates(trained, settings, mean_squares if settings.rule == "rms" else None)
        for segment in segments:
            with torch.enable_grad():
                nats, carry = score(segment, carry)
                loss = nats.mean()
            if not bool(loss.isfinite()):
                raise CheckpointError(
                    f"the loss became {float(loss.detach())} under dynamic evaluation with a learning rate of "
                    f"{settings.learning_rate}: its steps are too long; set a lower one"
                )
            yield nats.detach().double().cpu().numpy()
            _step(model, loss, trained, rates)


def collect_mean_squares(
    model: nn.Module, score: Score[Segment, Carry], segments: Iterable[Segment], carry: Carry
) -> MeanSquares:
    """The mean over segments of training text of each parameter's squared gradient of the nats per character.

    Collected once, with the trained weights; the segments should be as long as those of the evaluation.
    """
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in model.named_parameters()}
    count = 0
    for segment in segments:
        with torch.enable_grad():
            nats, carry = score(segment, carry)
        for name, gradient in _gradients(model, nats.mean()):
            sums[name].addcmul_(gradient.float(), gradient.float())
        count += 1
    assert count > 0, "no segment of training text"
    return {name: total / count for name, total in sums.items()}


def recurrent_segments(tokens: npt.NDArray[Any], segment_length: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets, (1, t) each, of the text (N,) cut into segments; the last one may be shorter."""
    for start in range(0, tokens.size - 1, segment_length):
        piece = torch.from_numpy(tokens[start : start + segment_length + 1].astype(np.int64))[None]
        yield piece[:, :-1], piece[:, 1:]


def recurrent_score(model: RecurrentModel, device: torch.device) -> Score[tuple[Tensor, Tensor], State]:
    """Scores segments of one stream, and carries its state on; begin with `model.new_state(1)`."""

    def score(segment: tuple[Tensor, Tensor], state: State) -> tuple[Tensor, State]:
        inputs, targets = (part.to(device) for part in segment)
        logits, state = model(inputs, state)  # (b, t, v)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none"), state.detach()

    return score


def window_segments(tokens: npt.NDArray[Any], plan: WindowPlan) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs (1, t) and the targets (1, p) of their last p positions, window after window of the text (N,).

    The plan's stride is the length of a segment: each character is scored, and learned from, once.
    """
    for number in range(len(plan)):
        window = plan.window(number)
        end = window.start + window.length
        piece = torch.from_numpy(tokens[window.start : end + 1].astype(np.int64))[None]
        yield piece[:, :-1], piece[:, window.length + 1 - window.num_scored :]


def window_score(model: Transformer, device: torch.device) -> Score[tuple[Tensor, Tensor], None]:
    """Scores the last positions of windows, which carry nothing on; begin with None."""

    def score(segment: tuple[Tensor, Tensor], nothing: None) -> tuple[Tensor, None]:
        inputs, targets = (part.to(device) for part in segment)
        scored = model.hidden(inputs)[:, -targets.shape[1] :]  # (1, t, d) -> (1, p, d)
        logits = model.head(scored)  # (1, p, v)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none"), None

    return score


@contextmanager
def _restored(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Gives a copy of the parameters, and in the end puts it back."""
    trained = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    try:
        yield trained
    finally:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(trained[name])


@dataclass(frozen=True)
class _Rate:
    """Of one parameter: what its gradient and its way back are multiplied by."""

    gradient: Tensor | float
    decay: Tensor | float


def _rates(trained: dict[str, Tensor], settings: DynamicSettings, mean_squares: MeanSquares | None) -> dict[str, _Rate]:
    """Krause et al. (2017), equations 5 to 8: under `rms` each weight decays by its root over the mean root."""
    if mean_squares is None:
        return {name: _Rate(settings.learning_rate, settings.decay) for name in trained}
    assert mean_squares.keys() == trained.keys(), "mean squares of another model"
    roots = {name: mean_squares[name].sqrt() for name in trained}
    mean = sum(float(root.sum(dtype=torch.float64)) for root in roots.values()) / sum(r.numel() for r in roots.values())
    return {
        # More than the whole way back would overshoot the trained weight.
        name: _Rate(settings.learning_rate / (root + settings.epsilon), (settings.decay * root / mean).clamp(max=1.0))
        for name, root in roots.items()
    }


@torch.no_grad()
def _step(model: nn.Module, loss: Tensor, trained: dict[str, Tensor], rates: dict[str, _Rate]) -> None:
    parameters = dict(model.named_parameters())
    for name, gradient in _gradients(model, loss):
        parameter, rate = parameters[name], rates[name]
        back = (trained[name] - parameter) * rate.decay
        parameter.sub_(gradient * rate.gradient).add_(back)


def _gradients(model: nn.Module, loss: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Name and gradient of every parameter the loss depends on."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return ((name, gradient) for name, gradient in zip(names, gradients, strict=True) if gradient is not None)
