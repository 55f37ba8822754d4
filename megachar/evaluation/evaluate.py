"""Bits per character of a text: one score for each character, the last layer's first target (Al-Rfou et al. 2019)."""

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt

from megachar.errors import CheckpointError
from megachar.evaluation.result import Evaluation, EvaluationSettings
from megachar.evaluation.scoring import make_scorer
from megachar.evaluation.windows import WindowPlan
from megachar.evaluation.workers import score_in_processes
from megachar.models.transformer import Transformer
from megachar.parallel.mesh import choose_device

Progress = Callable[[int], None]
"""Called with the number of characters scored since the last call."""


def evaluate(
    model: Transformer,
    tokens: npt.NDArray[Any],
    settings: EvaluationSettings,
    *,
    split: str = "",
    step: int = 0,
    max_characters: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score every character of a text once. See `megachar.evaluation.windows` for which context each one gets.

    The sum is exact (`math.fsum` over single characters), so neither the order nor the number of processes changes it.
    Another batch size or device may, in the last digits, because matrix products round differently there.

    Args:
        model: in evaluation mode; it is moved to the device.
        tokens: the text (N,), integers in [0, v), N at least 1.
        split: a label for the result.
        step: of the checkpoint, a label for the result.
        max_characters: score only so many from the start of the text.
        progress: hears of scored characters.

    Raises:
        ConfigError: a setting is out of range, or does not fit the model or the machine.
        PlatformError: a process failed, or memory is too small.
        CheckpointError: the loss is not a finite number.
    """
    settings.check(model.config.context)
    assert tokens.ndim == 1
    assert tokens.size > 0
    text = tokens[:max_characters]
    plan = WindowPlan(text.size, model.config.context, settings.stride)
    started = time.monotonic()
    nats = math.fsum(_all_nats(model, text, plan, settings, progress or _silent))
    seconds = max(time.monotonic() - started, 1e-9)
    if not math.isfinite(nats):
        raise CheckpointError(
            f"the model's loss at step {step} is {nats}: its weights or outputs are not finite numbers, training has "
            "diverged; evaluate an earlier checkpoint with --step"
        )
    return Evaluation(split, step, settings, plan.context, text.size, text.size == tokens.size, nats, seconds)


def _all_nats(
    model: Transformer, text: npt.NDArray[Any], plan: WindowPlan, settings: EvaluationSettings, progress: Progress
) -> Iterator[float]:
    """Nats of every character, in the text's order. The first has nothing before it: uniform, ln v."""
    yield math.log(model.config.vocabulary_size)
    progress(1)
    with closing(_batches(model, text, plan, settings)) as batches:  # ends the processes, whatever happens here
        for nats in batches:
            yield from nats.tolist()
            progress(nats.size)


def _batches(
    model: Transformer, text: npt.NDArray[Any], plan: WindowPlan, settings: EvaluationSettings
) -> Generator[npt.NDArray[np.float64], None, None]:
    """Nats of the scored characters (p,) of batch after batch."""
    device = choose_device(settings.device)
    if settings.processes > 1:
        yield from score_in_processes(model, text, plan, settings, device)
        return
    scorer = make_scorer(model, device, settings.precision)
    for j in range(plan.num_batches(settings.batch_size)):
        yield scorer.nats(text, plan.batch(j, settings.batch_size))


def _silent(num_characters: int) -> None:
    pass
