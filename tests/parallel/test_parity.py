"""Every layout trains what the plain single-device model trains: losses, all gradients, parameters."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from megachar.config.experiment import Experiment
from megachar.families.transformer.model import Transformer
from megachar.parallel.mesh import start
from megachar.parallel.topology import Topology
from megachar.selftest.findings import Findings
from megachar.selftest.parity import CHECKS, check_parity
from megachar.selftest.reference import Reference, relative_error
from tests.parallel.cases import merged, small_experiment, train
from tests.parallel.pool import RankPool

Ranks = Callable[[int], RankPool]


def layout(pipe: int, tensor: int, data: int, **more: Any) -> dict[str, Any]:
    return {"parallel": {"pipe": pipe, "tensor": tensor, "data": data, **more}}


def parity_case(values: dict[str, Any]) -> Findings:
    """On a rank: what the self-test finds, to a hundred thousandth of any one tensor."""
    experiment = Experiment.model_validate(values)
    parallel = experiment.parallel
    mesh = start(Topology(parallel.pipe, parallel.data, parallel.tensor), torch.device("cpu"))
    return check_parity(experiment, mesh, limits=(1e-5, 1e-5))


@pytest.mark.parametrize(
    ("pipe", "tensor", "data"),
    [(1, 1, 1), (2, 1, 1), (4, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 1), (2, 1, 2), (1, 2, 2), (4, 2, 1), (4, 1, 2),
     (2, 2, 2)],
)  # fmt: skip
def test_layout_equals_single_device(ranks: Ranks, pipe: int, tensor: int, data: int) -> None:
    """By the self-test's own check, with dropout where masks do not depend on the layout: not on tensor ranks."""
    model = {"dropout": 0.3 if tensor == 1 else 0.0}
    experiment = small_experiment(model=model, **layout(pipe, tensor, data))
    every = ranks(pipe * tensor * data).run(parity_case, experiment.model_dump())
    assert [problem for findings in every for problem in findings.problems] == []
    assert list(every[0].errors) == list(CHECKS)


def test_every_parameter_has_a_gradient() -> None:
    """Or the comparison above would be with nothing."""
    experiment = small_experiment()
    gradients = Reference(experiment, 1).gradients
    assert gradients.keys() == dict(Transformer(experiment.model, experiment.auxiliary).named_parameters()).keys()  # type: ignore[arg-type]
    assert all(gradient.norm() > 0 for gradient in gradients.values())


@pytest.mark.parametrize("deepspeed", ["fp32", "bf16_zero1"])
def test_pipeline_size_and_checkpointing_change_no_bit(ranks: Ranks, deepspeed: str) -> None:
    """Pipe 1, 2 and 4, with dropout and auxiliary losses, with and without activation checkpointing."""
    outcomes = []
    for pipe, interval in [(1, 0), (1, 1), (2, 0), (2, 1), (4, 0), (4, 1)]:
        experiment = small_experiment(
            model={"dropout": 0.3}, deepspeed=deepspeed, **layout(pipe, 1, 1, activation_checkpoint_interval=interval)
        )
        outcomes.append(merged(ranks(pipe).run(train, experiment.model_dump(), 10)))
    first = outcomes[0]
    for other in outcomes[1:]:
        assert np.array_equal(np.stack(other.nats), np.stack(first.nats))
        assert np.array_equal(other.evaluation, first.evaluation)
        for name, parameter in first.parameters.items():
            assert np.array_equal(other.parameters[name], parameter), name


def test_pipeline_size_changes_no_bit_under_tensor_parallelism(ranks: Ranks) -> None:
    outcomes = []
    for pipe in (1, 2):
        experiment = small_experiment(model={"dropout": 0.3}, **layout(pipe, 2, 1))
        outcomes.append(merged(ranks(2 * pipe).run(train, experiment.model_dump(), 5)))
    assert np.array_equal(np.stack(outcomes[0].nats), np.stack(outcomes[1].nats))


def test_data_size_changes_only_the_order_of_summation(ranks: Ranks) -> None:
    """The same micro-batches and masks over 1, 2 and 4 replicas."""
    losses = []
    for data in (1, 2, 4):
        experiment = small_experiment(model={"dropout": 0.3}, **layout(1, 1, data))
        losses.append(np.stack(ranks(data).run(train, experiment.model_dump(), 10, False)[0].nats))
    for other in losses[1:]:
        np.testing.assert_allclose(other, losses[0], rtol=1e-6)


@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "sgd", "learning_rate": 0.5, "momentum": 0.9},
        {"name": "adamw", "learning_rate": 0.01, "epsilon": 0.01, "weight_decay": 0.1},
    ],
)
def test_zero_stages_agree(ranks: Ranks, optimizer: dict[str, Any]) -> None:
    """ZeRO 0-3 over two replicas, through the steps at which layers fall silent, with clipping by the norm."""
    outcomes = []
    for deepspeed in ("fp32", "fp32_zero1", "fp32_zero2", "fp32_zero3"):
        training = {"total_steps": 10, "gradient_clipping": 0.0 if optimizer["name"] == "sgd" else 0.7}
        experiment = small_experiment(
            model={"dropout": 0.3}, deepspeed=deepspeed, optimizer=optimizer, training=training, **layout(1, 1, 2)
        )
        outcomes.append(merged(ranks(2).run(train, experiment.model_dump(), 8)))
    first = outcomes[0]
    assert {name for name in first.parameters if "auxiliary" in name}
    for other in outcomes[1:]:
        np.testing.assert_allclose(np.stack(other.nats), np.stack(first.nats), rtol=1e-6)
        for name, parameter in first.parameters.items():
            assert relative_error([other.parameters[name]], [parameter]) < 1e-5, name


@pytest.mark.parametrize("deepspeed", ["bf16_zero2_offload", "bf16_zero3_offload", "bf16_zero3"])
def test_offload_and_half_precision_stay_close(ranks: Ranks, deepspeed: str) -> None:
    base = small_experiment(deepspeed="bf16_zero1", **layout(1, 1, 2))
    expected = merged(ranks(2).run(train, base.model_dump(), 8))
    other = small_experiment(deepspeed=deepspeed, **layout(1, 1, 2))
    actual = merged(ranks(2).run(train, other.model_dump(), 8))
    np.testing.assert_allclose(np.stack(actual.nats), np.stack(expected.nats), rtol=2e-3)
    for name, parameter in expected.parameters.items():
        assert relative_error([actual.parameters[name]], [parameter]) < 5e-2, name


@pytest.mark.parametrize(("pipe", "tensor", "data"), [(1, 2, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2)])
@pytest.mark.parametrize("deepspeed", ["fp32", "fp32_zero1"])
def test_clipping_sees_one_norm_on_every_layout(
    ranks: Ranks, pipe: int, tensor: int, data: int, deepspeed: str
) -> None:
    """Parameters that tensor ranks replicate count once, those of other stages count too."""
    training = {"total_steps": 10, "gradient_clipping": 0.3}
    single = small_experiment(training=training, deepspeed="fp32")
    expected = merged(ranks(1).run(train, single.model_dump(), 3))
    experiment = small_experiment(training=training, deepspeed=deepspeed, **layout(pipe, tensor, data))
    actual = merged(ranks(pipe * tensor * data).run(train, experiment.model_dump(), 3))
    for name, parameter in expected.parameters.items():
        assert relative_error([actual.parameters[name]], [parameter]) < 1e-5, name
