"""fp16 with loss scaling: the joined auxiliary gradients carry the scale, on every stage."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from megachar.selftest.reference import Reference, relative_error
from tests.parallel.cases import Outcome, fp16_on_cpu, merged, small_experiment, train
from tests.parallel.pool import RankPool

Ranks = Callable[[int], RankPool]


def train_in_fp16(values: dict[str, Any], steps: int) -> Outcome:
    """On a rank: `train`, in fp16."""
    with fp16_on_cpu():
        return train(values, steps)


@pytest.mark.parametrize(("pipe", "tensor", "data"), [(1, 1, 1), (2, 1, 1), (4, 1, 1), (2, 2, 1), (1, 1, 2)])
def test_gradients_equal_fp32_within_half_precision(ranks: Ranks, pipe: int, tensor: int, data: int) -> None:
    experiment = small_experiment(
        deepspeed="fp16_zero1", parallel={"pipe": pipe, "tensor": tensor, "data": data}, optimizer={
            "name": "sgd", "learning_rate": 0.05, "momentum": 0.9}
    )  # fmt: skip
    expected = Reference(experiment, 3)
    actual = merged(ranks(pipe * tensor * data).run(train_in_fp16, experiment.model_dump(), 3))
    assert actual.loss_scale > 1000
    # A few biases nearly cancel over the batch; a missing loss scale would show as 0.5 and more.
    for name, gradient in expected.gradients.items():
        assert relative_error([actual.gradients[name]], [gradient]) < 0.1, name
    whole = ([gradients[name] for name in expected.gradients] for gradients in (actual.gradients, expected.gradients))
    assert relative_error(*whole) < 6e-3
    for step in range(3):
        np.testing.assert_allclose(actual.nats[step], expected.nats[step], rtol=2e-3)
