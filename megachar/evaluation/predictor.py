"""Models of all families as predictors of a text: each character's distribution from those before it."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from megachar.base.errors import ConfigError
from megachar.evaluation.progress import Progress
from megachar.evaluation.scoring import make_scorer
from megachar.evaluation.windows import (
    STREAMS,
    WARM_UP,
    WindowPlan,
    check_batch_size,
    check_streams,
    check_stride,
    default_stride,
    stream_plan,
)
from megachar.families.model import Model


class Predictor:
    """A model on a device that predicts the characters of one text, each from those before it.

    A transformer reads windows, each computed afresh; see `megachar.evaluation.windows` for the contexts. A recurrent
    model carries its state on over the text: `predict` from the first character to the last, `nats` in several streams
    side by side, each but the first after a warm-up. With a context it reads windows too, each from a state of zero.

    Shapes: N characters of the text, integers in [0, v), N at least 1; v vocabulary.
    """

    def __init__(
        self,
        model: Model,
        device: torch.device,
        *,
        precision: str = "fp32",
        stride: int | None = None,
        batch_size: int = 32,
        streams: int = STREAMS,
        warm_up: int = WARM_UP,
    ) -> None:
        """Make a model ready to predict.

        Args:
            model: in evaluation mode. A transformer is moved to the device, a recurrent model is copied there.
            device: where to compute.
            precision: `fp32`, or `bf16` for all but the classifier and the losses.
            stride: characters from one window to the next; 1 is exact. Default: an eighth of the context.
            batch_size: windows in one forward pass.
            streams: of a recurrent model without a context, for `nats`; 1 is exact.
            warm_up: characters that each of these streams but the first reads before it is scored.

        Raises:
            ConfigError: a value is out of range.
        """
        self._scorer = make_scorer(model, device, precision)
        self.vocabulary_size = self._scorer.vocabulary_size
        self.context = model.config.context_limit
        """The longest context in characters; None where state is carried on without bound."""
        check_batch_size(batch_size)
        if self.context is None:
            check_streams(streams, warm_up)
        elif stride is not None:
            check_stride(stride, self.context)
        self._stride, self._batch_size, self._streams, self._warm_up = stride, batch_size, streams, warm_up

    def predict(self, tokens: npt.NDArray[Any], context: int | None = None) -> Iterator[Tensor]:
        """Log-probabilities (p, v), fp32 on the CPU, of characters 1..N-1 in the text's order, batch after batch.

        Args:
            tokens: the text (N,).
            context: from at most so many characters before each; default: all that the model can use.

        Raises:
            ConfigError: the context is out of range.
            PlatformError: memory is too small.
        """
        if self.context is None and context is None:
            plan, batch_size = stream_plan(tokens.size, 1, 0), 1  # batches follow each other, and none is much to hold
        else:
            plan, batch_size = self._plan(tokens.size, context)
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

    def _plan(self, num_characters: int, context: int | None) -> tuple[WindowPlan, int]:
        """The windows of a text, and how many are read side by side."""
        if context is None:
            context = self.context
        if context is None:
            return stream_plan(num_characters, self._streams, self._warm_up), self._streams
        if self.context is not None and context > self.context:
            raise ConfigError(
                f"context = {context} is more than the model's context of {self.context} characters; set at most "
                f"{self.context}"
            )
        if context < 1:
            raise ConfigError(f"context = {context}: nothing could be predicted from it; set 1 or more")
        stride = default_stride(context) if self._stride is None else self._stride
        return WindowPlan(num_characters, context, stride), self._batch_size
