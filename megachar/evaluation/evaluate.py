"""Bits per character of a text: one score for each character, the last layer's first target (Al-Rfou et al. 2019)."""

import math
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from megachar.base.device import choose_device
from megachar.base.errors import CheckpointError
from megachar.evaluation.dynamic import MeanSquares, collect_mean_squares, dynamic_nats
from megachar.evaluation.progress import Progress
from megachar.evaluation.result import DynamicEvaluation, Evaluation
from megachar.evaluation.scoring import make_scorer
from megachar.evaluation.segments import Reading, part_bounds
from megachar.evaluation.settings import DynamicSettings, EvaluationSettings
from megachar.evaluation.windows import WindowPlan
from megachar.evaluation.workers import score_in_processes
from megachar.families.model import Model


def evaluate(
    model: Model,
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
        model: in evaluation mode; a transformer is moved to the device.
        tokens: the text (N,), integers in [0, v), N at least 1.
        settings: those of the model's family.
        split: a label for the result.
        step: of the checkpoint, a label for the result.
        max_characters: score only so many from the start of the text.
        progress: hears of scored characters.

    Raises:
        ConfigError: a setting is out of range, or does not fit the model or the machine.
        PlatformError: a process failed, or memory is too small.
        CheckpointError: the loss is not a finite number.
    """
    assert tokens.ndim == 1
    assert tokens.size > 0
    text = tokens[:max_characters]
    context = model.config.context_limit
    settings.check(context)
    plan = settings.plan(text.size, context)
    settings = settings.used_for(plan)
    nats, seconds = _timed_sum(model.config.vocabulary_size, _batches(model, text, plan, settings), progress)
    if not math.isfinite(nats):
        raise CheckpointError(
            f"the model's loss at step {step} is {nats}: its weights or outputs are not finite numbers, training has "
            "diverged; evaluate an earlier checkpoint with --step"
        )
    return Evaluation(
        text.size,
        nats,
        seconds,
        split=split,
        step=step,
        settings=settings,
        context=context,
        whole_split=text.size == tokens.size,
    )


def evaluate_dynamically(
    model: Model,
    tokens: npt.NDArray[Any],
    settings: DynamicSettings,
    device: str = "auto",
    *,
    mean_squares: MeanSquares | None = None,
    max_characters: int | None = None,
    progress: Progress | None = None,
) -> DynamicEvaluation:
    """Score every character of a text once, by weights that follow it; see `megachar.evaluation.dynamic`.

    Args:
        model: in evaluation mode; it is moved to the device, and has its weights back in the end.
        tokens: the text (N,), as for `evaluate`.
        settings: the rule. A transformer's segments are its windows' stride.
        device: `auto`, `cpu` or `cuda`.
        mean_squares: for rule `rms`, from `training_mean_squares`.
        max_characters: score only so many from the start of the text.
        progress: hears of scored characters.

    Raises:
        ConfigError: a setting is out of range, or does not fit the model or the machine.
        CheckpointError: the loss is not a finite number.
    """
    settings.check()
    text = tokens[:max_characters]
    settings = replace(settings, streams=part_bounds(text.size, settings.segment_length, settings.streams).size - 1)
    reading = _reading(model, device, settings)
    segments = dynamic_nats(model, reading, text, settings, mean_squares)
    nats, seconds = _timed_sum(model.config.vocabulary_size, segments, progress)
    return DynamicEvaluation(text.size, nats, seconds, settings, model.config.context_limit)


def training_mean_squares(
    model: Model,
    tokens: npt.NDArray[Any],
    settings: DynamicSettings,
    device: str = "auto",
    progress: Progress | None = None,
) -> MeanSquares:
    """Mean squared gradients for rule `rms`, from the first characters of training text (N,), N at least 2."""
    reading = _reading(model, device, settings)
    return collect_mean_squares(model, reading, tokens[: settings.statistics], progress)


def _reading(model: Model, device: str, settings: DynamicSettings) -> Reading[Any]:
    """How a model, which is moved to the device, reads a text."""
    place = next(model.to(choose_device(device)).parameters()).device
    scorer = model.config.part("scorer")
    reading: Reading[Any] = scorer.reading(model, place, settings.segment_length, settings.streams)
    return reading


def _timed_sum(
    vocabulary_size: int, batches: Generator[npt.NDArray[np.float64], None, None], progress: Progress | None
) -> tuple[float, float]:
    """The sum of the nats of every character, and the seconds it took; the batches are closed, whatever happens.

    The first character has nothing before it: uniform, ln v.
    """
    report = progress or (lambda num_characters: None)

    def all_nats() -> Iterator[float]:
        yield math.log(vocabulary_size)
        report(1)
        for nats in batches:
            yield from nats.tolist()
            report(nats.size)

    started = time.monotonic()
    with closing(batches):
        total = math.fsum(all_nats())
    return total, max(time.monotonic() - started, 1e-9)


def _batches(
    model: Model, text: npt.NDArray[Any], plan: WindowPlan, settings: EvaluationSettings
) -> Generator[npt.NDArray[np.float64], None, None]:
    """Nats of the scored characters (p,) of batch after batch."""
    device = choose_device(settings.device)
    if settings.processes > 1:
        yield from score_in_processes(model, text, plan, settings, device)
        return
    for _, nats in make_scorer(model, device, settings.precision).nats_of_all(text, plan, settings.side_by_side):
        yield nats
