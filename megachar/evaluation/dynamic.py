"""Dynamic evaluation (Krause et al. 2017): the model goes on learning from the text that it has just been scored on.

Every segment is scored first, with weights that have seen nothing of it or of what follows it; then its gradient
changes them, and they decay back to the trained ones. The figure is one of its own, beside the static one.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from megachar.base.errors import CheckpointError, ConfigError
from megachar.evaluation.progress import Progress
from megachar.evaluation.segments import Carry, Reading
from megachar.evaluation.settings import DynamicSettings

MeanSquares = dict[str, Tensor]
"""Mean squared gradient of each parameter, by name."""


def dynamic_nats(
    model: nn.Module,
    reading: Reading[Carry],
    tokens: npt.NDArray[Any],
    settings: DynamicSettings,
    mean_squares: MeanSquares | None = None,
) -> Generator[npt.NDArray[np.float64], None, None]:
    """Nats of the characters (p,) of each segment in turn, all but the text's first, while the weights follow the text.

    The model has its trained weights back when the generator ends or is closed.

    Args:
        model: whose parameters change; in evaluation mode.
        reading: how it reads the text; as the settings say.
        tokens: the text (N,).
        settings: the rule.
        mean_squares: for rule `rms`, from `collect_mean_squares`.

    Raises:
        ConfigError: a setting is out of range, or the mean squares are missing.
        CheckpointError: the loss is not a finite number.
    """
    settings.check()
    if settings.rule == "rms" and mean_squares is None:
        raise ConfigError("rule = rms of dynamic evaluation needs mean squares from the training text; set rule = sgd")
    if tokens.size < 2:
        return
    with _restored(model) as trained:
        step = _Step(model, trained, settings, mean_squares)
        carry = reading.begin(tokens)
        for segment in reading.segments(tokens):
            with torch.enable_grad():
                nats, carry = reading.score(segment, carry)
                loss = nats.mean()
            if not bool(loss.isfinite()):
                raise CheckpointError(
                    f"the loss became {float(loss.detach())} under dynamic evaluation with a learning rate of "
                    f"{settings.learning_rate}: its steps are too long; set a lower one"
                )
            yield nats.detach().double().cpu().numpy()
            step(loss)


def collect_mean_squares(
    model: nn.Module, reading: Reading[Carry], tokens: npt.NDArray[Any], progress: Progress | None = None
) -> MeanSquares:
    """The mean over segments of training text (N,), N at least 2, of each parameter's squared gradient.

    The gradient is that of a segment's nats per character, with the trained weights. The segments should be as long,
    and of as many streams, as those of the evaluation.
    """
    assert tokens.size > 1, "no segment of training text"
    parameters = list(model.parameters())
    sums = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters]
    carry, count = reading.begin(tokens), 0
    for segment in reading.segments(tokens):
        with torch.enable_grad():
            nats, carry = reading.score(segment, carry)
            gradients, used = _gradients(nats.mean(), parameters)
        of_used = [gradient.float() for gradient in gradients]
        torch._foreach_addcmul_([sums[i] for i in used], of_used, of_used)
        count += 1
        if progress is not None:
            progress(nats.numel())
    names = (name for name, _ in model.named_parameters())
    return {name: total / count for name, total in zip(names, sums, strict=True)}


@contextmanager
def _restored(model: nn.Module) -> Iterator[list[Tensor]]:
    """Gives a copy of the parameters, and in the end puts it back."""
    trained = [parameter.detach().clone() for parameter in model.parameters()]
    try:
        yield trained
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(model.parameters()), trained)


class _Step:
    """The way back and the step after a segment: Krause et al. (2017), equations 3 to 8.

    Under `rms` each gradient is divided by the root of its mean square, and each decay multiplied by it over the mean.
    """

    def __init__(
        self, model: nn.Module, trained: list[Tensor], settings: DynamicSettings, mean_squares: MeanSquares | None
    ) -> None:
        self._parameters, self._trained = list(model.parameters()), trained
        self._learning_rate, self._decay = settings.learning_rate, settings.decay
        self._rates: list[Tensor] | None = None
        if settings.rule == "sgd":
            return
        assert mean_squares is not None
        roots = [mean_squares[name].to(p).sqrt() for name, p in model.named_parameters()]
        total = sum(float(root.sum(dtype=torch.float64)) for root in roots)
        mean = total / sum(root.numel() for root in roots)
        self._rates = [settings.learning_rate / (root + settings.epsilon) for root in roots]
        # More than the whole way back would overshoot the trained weight.
        self._decays = [(settings.decay * root / mean).clamp_(max=1.0) for root in roots]

    @torch.no_grad()
    def __call__(self, loss: Tensor) -> None:
        """Change the parameters in place: few passes over them, for they are most of the work."""
        gradients, used = _gradients(loss, self._parameters)
        parameters, trained = ([tensors[i] for i in used] for tensors in (self._parameters, self._trained))
        if self._rates is None:
            torch._foreach_lerp_(parameters, trained, self._decay)
            torch._foreach_add_(parameters, gradients, alpha=-self._learning_rate)
        else:
            torch._foreach_lerp_(parameters, trained, [self._decays[i] for i in used])
            torch._foreach_addcmul_(parameters, gradients, [self._rates[i] for i in used], value=-1.0)


def _gradients(loss: Tensor, parameters: Sequence[Tensor]) -> tuple[list[Tensor], list[int]]:
    """Gradients of the parameters that the loss depends on, and their numbers."""
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    used = [i for i, gradient in enumerate(gradients) if gradient is not None]
    return [gradient for gradient in gradients if gradient is not None], used
