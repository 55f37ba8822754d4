"""The rules for width and depth on layouts: factors are those of the whole model, whatever a rank holds of it."""

from collections.abc import Callable

import numpy as np
import pytest

from megachar.selftest.reference import Reference, relative_error
from tests.families.test_width_and_depth import scaled
from tests.parallel.cases import merged, train
from tests.parallel.pool import RankPool

Ranks = Callable[[int], RankPool]


@pytest.mark.parametrize(
    ("pipe", "tensor", "data", "deepspeed"),
    [(1, 1, 1, "fp32"), (2, 1, 2, "fp32_zero1"), (1, 2, 1, "fp32"), (2, 2, 1, "fp32"), (1, 1, 2, "fp32_zero2"),
     (1, 2, 2, "fp32_zero3")],
)  # fmt: skip
def test_layouts_equal_the_single_device(ranks: Ranks, pipe: int, tensor: int, data: int, deepspeed: str) -> None:
    """Losses, and what the factors made of the gradients: moments after one step, parameters after four."""
    experiment = scaled(deepspeed=deepspeed, parallel={"pipe": pipe, "tensor": tensor, "data": data})
    expected = Reference(experiment, 4)
    actual = merged(ranks(pipe * tensor * data).run(train, experiment.model_dump(), 4))
    for step in range(4):
        assert relative_error([actual.nats[step]], [expected.nats[step]]) < 1e-5
    for name, gradient in expected.gradients.items():
        moment = actual.gradients[f"exp_avg/{name}"]
        assert relative_error([moment], [(1 - 0.9) * gradient]) < 1e-5, name
    for name, parameter in expected.parameters.items():
        assert relative_error([actual.parameters[name]], [parameter]) < 1e-5, name


def test_offload_keeps_the_factors(ranks: Ranks) -> None:
    """The optimizer on the host takes each group's epsilon and rate: with other factors it would not be near."""
    outcomes = []
    for deepspeed in ("bf16_zero1", "bf16_zero2_offload"):
        experiment = scaled(deepspeed=deepspeed, parallel={"data": 2})
        outcomes.append(merged(ranks(2).run(train, experiment.model_dump(), 4)).parameters)
    start = Reference(scaled(), 0).parameters
    for name, parameter in outcomes[0].items():
        moved = np.linalg.norm(parameter - start[name].numpy())
        assert np.linalg.norm(outcomes[1][name] - parameter) < 0.1 * moved, name


@pytest.mark.parametrize(("pipe", "tensor", "data"), [(2, 1, 2), (4, 1, 1), (2, 2, 1)])
def test_stages_with_other_groups_take_one_norm(ranks: Ranks, pipe: int, tensor: int, data: int) -> None:
    """Each stage has groups of parameters that others do not have; the norm that clips is that of all."""
    training = {"total_steps": 10, "gradient_clipping": 0.05}
    single = scaled(training=training)
    expected = merged(ranks(1).run(train, single.model_dump(), 3))
    experiment = scaled(
        training=training, deepspeed="fp32_zero1", parallel={"pipe": pipe, "tensor": tensor, "data": data}
    )
    actual = merged(ranks(pipe * tensor * data).run(train, experiment.model_dump(), 3))
    norm = np.sqrt(sum(float(gradient.square().sum()) for gradient in Reference(single, 1).gradients.values()))
    assert actual.gradient_norms[0] == pytest.approx(norm, rel=1e-5)
    assert norm > 0.05
    for name, parameter in expected.parameters.items():
        assert relative_error([actual.parameters[name]], [parameter]) < 1e-5, name
