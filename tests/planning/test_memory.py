"""Memory by part: parameters and what optimizers keep to the byte, and all of it in the right direction."""

import pytest

from megachar.config.experiment import Experiment
from megachar.config.loading import load_experiment
from megachar.families.counting import count_parameters
from megachar.planning.cluster import Cluster
from megachar.planning.devices import load_device
from megachar.planning.memory import PARTS, Memory
from megachar.planning.planner import Planner
from tests.planning.layouts import layout_of

H100 = Cluster.of(load_device("h100"), 64)


def memory_of(experiment: Experiment, *layout: object) -> Memory:
    return Planner(experiment, H100).memory(layout_of(experiment, *layout))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("deepspeed", "replicas", "weights", "optimizer"),
    [
        ("bf16_zero1", 1, 2, 12), ("bf16_zero1", 8, 2, 12 / 8), ("bf16_zero2", 4, 2, 12 / 4),
        ("bf16_zero2_offload", 4, 2, 0), ("fp32", 1, 4, 8), ("fp32", 8, 4, 8), ("fp32_zero1", 4, 4, 12 / 4),
        ("fp32_zero2", 2, 4, 12 / 2),
    ],
)  # fmt: skip
def test_states_are_those_of_zeros_arithmetic(
    t64: Experiment, deepspeed: str, replicas: int, weights: float, optimizer: float
) -> None:
    parameters = sum(part.training for part in count_parameters(t64.model, t64.auxiliary))
    memory = memory_of(t64, 1, 1, replicas, 1, deepspeed)
    assert memory.weights == weights * parameters
    assert memory.optimizer == pytest.approx(optimizer * parameters, abs=0.5)


def test_an_optimizer_with_less_state_takes_less() -> None:
    t64 = load_experiment("t64")  # SGD with momentum
    parameters = sum(part.training for part in count_parameters(t64.model, t64.auxiliary))
    assert memory_of(t64, 1, 1, 1, 1, "fp32").optimizer == 4 * parameters


def test_a_bucket_of_reduction_is_held_whole(t64: Experiment) -> None:
    assert memory_of(t64, 1, 1, 4, 8, "bf16_zero2").communication == 2 * 500_000_000
    assert memory_of(t64, 1, 1, 4, 8, "fp32_zero1").communication == 4 * 500_000_000
    assert memory_of(t64, 1, 1, 4, 8, "fp32").communication == 0


def test_directions(t64: Experiment) -> None:
    base = memory_of(t64, 4, 1, 2, 4, "bf16_zero1")
    assert base.pipeline > 0
    larger = memory_of(t64, 4, 1, 2, 8, "bf16_zero1")
    assert larger.activations > 1.9 * base.activations
    assert larger.weights == base.weights
    recomputed = memory_of(t64, 4, 1, 2, 4, "bf16_zero1", 1)
    assert recomputed.total < base.total
    assert recomputed.classifiers < base.classifiers
    cut = memory_of(t64, 4, 2, 1, 4, "bf16_zero1")
    assert cut.weights < 0.6 * base.weights
    assert memory_of(t64, 8, 1, 2, 4, "bf16_zero1").weights < base.weights
    assert base.total == sum(getattr(base, part) for part in PARTS)


def test_the_first_stage_keeps_the_most_micro_batches(t64: Experiment) -> None:
    assert memory_of(t64, 8, 1, 1, 4, "bf16_zero1").stage == 0


def test_without_auxiliary_losses_no_classifier_keeps_anything() -> None:
    plain = load_experiment("t64-modern", ["auxiliary.intermediate_layers=false"])
    assert memory_of(plain, 1, 1, 1, 8, "bf16_zero1").classifiers == 0
    assert memory_of(load_experiment("mlstm-20m"), 1, 1, 1, 1, "fp32").activations > 0
