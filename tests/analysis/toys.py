"""Predictors whose probabilities are known."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Table = npt.NDArray[np.float64]


class Bigram:
    """Predicts each symbol from the one before it by a table of log-probabilities (v, v)."""

    def __init__(self, table: Table, context: int | None = None) -> None:
        self.table, self.context, self.vocabulary_size = table, context, len(table)

    def predict(self, tokens: npt.NDArray[Any], context: int | None = None) -> Iterator[Tensor]:
        rows = torch.from_numpy(self.table[tokens[:-1].astype(np.int64)]).float()
        yield from rows.split([min(3, len(rows)), max(0, len(rows) - 3)])  # batches of different sizes

    def nats(
        self, tokens: npt.NDArray[Any], context: int | None = None, progress: Callable[[int], None] | None = None
    ) -> Table:
        return np.array([math.log(len(self.table)), *(-self.table[a, b] for a, b in pairwise(tokens))])


class Fading:
    """Whose loss is 1 + 1/c nats with c characters of context, except at `place`, where it is 100 more."""

    vocabulary_size = 256

    def __init__(self, context: int | None, place: int) -> None:
        self.context, self.place = context, place
        self.heard = 0

    def nats(
        self, tokens: npt.NDArray[Any], context: int | None = None, progress: Callable[[int], None] | None = None
    ) -> Table:
        seen = [min(i, context or self.context or tokens.size) for i in range(1, tokens.size)]
        if progress is not None:
            progress(len(seen))
        nats = np.array([math.log(256), *(1 + 1 / c for c in seen)])
        nats[self.place] += 100
        return nats


def random_table(rng: np.random.Generator, size: int) -> Table:
    logits = rng.normal(size=(size, size))
    # As fp32 holds them, which is what predictors give.
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32).astype(np.float64)
