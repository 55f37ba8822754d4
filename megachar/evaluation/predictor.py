"""Models of all families as predictors of a text: each character's distribution from those before it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from megachar.base.errors import ConfigError
from megachar.evaluation.progress import Progress
from megachar.evaluation.scoring import Scorer, make_scorer
from megachar.evaluation.windows import (
    STREAMS,
    WARM_UP,
    WindowPlan,
    check_streams,
    check_stride,
    default_stride,
    stream_plan,
)
from megachar.families.model import Model


class Predictor(ABC):
    """A model on a device that predicts the characters of one text, each from those before it.

    Shapes: N characters of the text, integers in [0, v), N at least 1; v vocabulary.
    """

    context: int | None
    """The longest context in characters; None where state is carried on without bound."""

    def __init__(self, scorer: Scorer, stride: int | None, batch_size: int) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch size = {batch_size}: a batch needs a window; set 1 or more, such as 32")
        self._scorer, self._stride, self._batch_size = scorer, stride, batch_size
        self.vocabulary_size = scorer.vocabulary_size

    def predict(self, tokens: npt.NDArray[Any], context: int | None = None) -> Iterator[Tensor]:
        """Log-probabilities (p, v), fp32 on the CPU, of characters 1..N-1 in the text's order, batch after batch.

        Args:
            tokens: the text (N,).
            context: from at most so many characters before each; default: all that the model can use.

        Raises:
            ConfigError: the context is out of range.
            PlatformError: memory is too small.
        """
        plan, batch_size = self._ordered_plan(tokens.size, context)
        batches = (plan.batch(j, batch_size) for j in range(plan.num_batches(batch_size)))
        return (rows for batch in batches for rows in self._scorer.log_probabilities(tokens, batch))

    def nats(
        self, tokens: npt.NDArray[Any], context: int | None = None, progress: Progress | None = None
    ) -> npt.NDArray[np.float64]:
        """Nats of each character, (N,); the first has nothing before it and counts as uniform, ln v.

        Arguments and errors are those of `predict`; `progress` hears of scored characters.
        """
        nats = np.empty(tokens.size)
        nats[0] = math.log(self.vocabulary_size)
        plan, batch_size = self._plan(tokens.size, context)
        for places, found in self._scorer.nats_of_all(tokens, plan, batch_size):
            nats[places] = found
            if progress is not None:
                progress(places.size)
        return nats

    @abstractmethod
    def _plan(self, num_characters: int, context: int | None) -> tuple[WindowPlan, int]:
        """The windows of a text, and how many are read side by side."""

    def _ordered_plan(self, num_characters: int, context: int | None) -> tuple[WindowPlan, int]:
        """The same, of batches that follow each other in the text and are not too much to hold."""
        return self._plan(num_characters, context)

    def _windows(self, num_characters: int, context: int) -> tuple[WindowPlan, int]:
        if context < 1:
            raise ConfigError(f"context = {context}: nothing could be predicted from it; set 1 or more")
        stride = default_stride(context) if self._stride is None else self._stride
        return WindowPlan(num_characters, context, stride), self._batch_size


class WindowPredictor(Predictor):
    """A transformer: every window is computed afresh. See `megachar.evaluation.windows` for the contexts."""

    context: int

    def __init__(self, scorer: Scorer, context: int, stride: int | None, batch_size: int) -> None:
        super().__init__(scorer, stride, batch_size)
        self.context = context
        if stride is not None:
            check_stride(stride, context)

    def _plan(self, num_characters: int, context: int | None) -> tuple[WindowPlan, int]:
        if context is not None and context > self.context:
            raise ConfigError(
                f"context = {context} is more than the model's context of {self.context} characters; set at most "
                f"{self.context}"
            )
        return self._windows(num_characters, self.context if context is None else context)


class StreamPredictor(Predictor):
    """A recurrent model, whose state is carried on over the text; with a context, it is zero where a window begins.

    `predict` carries it on from the first character to the last. `nats` reads long texts in several streams side by
    side, each but the first after a warm-up.
    """

    context = None

    def __init__(self, scorer: Scorer, streams: int, warm_up: int, stride: int | None, batch_size: int) -> None:
        super().__init__(scorer, stride, batch_size)
        self._streams, self._warm_up = streams, warm_up
        check_streams(streams, warm_up)

    def _plan(self, num_characters: int, context: int | None) -> tuple[WindowPlan, int]:
        if context is not None:
            return self._windows(num_characters, context)
        return stream_plan(num_characters, self._streams, self._warm_up), self._streams

    def _ordered_plan(self, num_characters: int, context: int | None) -> tuple[WindowPlan, int]:
        return self._plan(num_characters, context) if context is not None else (stream_plan(num_characters, 1, 0), 1)


def make_predictor(
    model: Model,
    device: torch.device,
    *,
    precision: str = "fp32",
    stride: int | None = None,
    batch_size: int = 32,
    streams: int = STREAMS,
    warm_up: int = WARM_UP,
) -> Predictor:
    """The predictor of the model's family.

    Args:
        model: in evaluation mode. A transformer is moved to the device, a recurrent model is copied there.
        device: where to compute.
        precision: `fp32`, or `bf16` for all but the classifier and the losses.
        stride: characters from one window to the next; 1 is exact. Default: an eighth of the context. Windows are how a
            transformer reads, and a recurrent model with a context.
        batch_size: windows in one forward pass.
        streams: of a recurrent model without a context, for `nats`; 1 is exact.
        warm_up: characters that each of these streams but the first reads before it is scored.

    Raises:
        ConfigError: a value is out of range.
    """
    scorer, context = make_scorer(model, device, precision), model.config.context_limit
    if context is not None:
        return WindowPredictor(scorer, context, stride, batch_size)
    return StreamPredictor(scorer, streams, warm_up, stride, batch_size)
