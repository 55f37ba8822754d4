"""A step that goes wrong on one rank is refused by all, leaves no trace, and training goes on as if never tried."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megachar.config.experiment import Experiment
from megachar.parallel.engine import StepFigures, TrainingEngine
from megachar.parallel.mesh import Mesh, start
from megachar.parallel.state import EngineState
from megachar.parallel.topology import Topology
from megachar.selftest.reference import Reference, micro_batch, relative_error, weights_at
from megachar.training.guard import Guard
from megachar.training.setup import build_engine
from tests.parallel.cases import small_experiment
from tests.parallel.pool import RankPool
from tests.parallel.test_fp16 import fp16_on_cpu

Ranks = Callable[[int], RankPool]
STEPS = 12
FAULTS = {2: "loss", 4: "gradient", 9: "spike"}
"""Step -> what goes wrong. Layers fall silent at steps 3, 5 and 8, so what a fault leaves behind would stay."""


@dataclass
class Trace:
    """What a run of some steps gave on one rank."""

    nats: list[np.ndarray]
    """Per step: sums of nats (layers, n) over all micro-batches; zero for a refused step."""
    reasons: list[str | None]
    """Per step: why it was refused."""
    norms: list[float | None]
    parameters: dict[str, np.ndarray]
    unchanged: list[bool]
    """Per refused step: whether weights, optimizer state and step count were bit by bit what they were before."""
    skipped_by_deepspeed: int
    loss_scales: list[float]


class Fault:
    """Breaks the forward or backward pass of this rank's last block, at the step that is set."""

    def __init__(self, engine: TrainingEngine) -> None:
        self.kind: str | None = None
        *_, block = engine.stage.blocks.values()
        block.register_forward_hook(self._break)

    def _break(self, _module: Any, _inputs: Any, hidden: torch.Tensor) -> torch.Tensor:
        if self.kind == "loss":
            return hidden * torch.nan
        if self.kind is not None and hidden.requires_grad:
            hidden.register_hook(lambda gradient: gradient * (torch.inf if self.kind == "gradient" else 1e4))
        return hidden


def snapshot(state: EngineState) -> dict[str, Any]:
    tensors = {name: tensor.clone() for _, weights, states in state.export()
               for name, tensor in {**weights, **states}.items()}  # fmt: skip
    return {**tensors, "steps": torch.tensor(state.optimizer_steps)}


def run(experiment: Experiment, mesh: Mesh, faults: dict[int, str], where: int, refused: list[int] | None) -> Trace:
    """Train with faults on one rank, under a `Guard`, or under a judge that refuses the steps numbered."""
    engine = build_engine(experiment, mesh)
    state, guard, fault = EngineState(engine, experiment.optimizer.state_keys), Guard(experiment.guard), Fault(engine)
    step, total = 0, experiment.batch.num_micro_batches
    engine.guard_steps(guard.accept if refused is None else lambda _: step not in refused)
    trace = Trace([], [], [], {}, [], 0, [])
    for step in range(STEPS):
        fault.kind = faults.get(step) if mesh.rank == where else None
        before = snapshot(state) if step in faults else {}
        batches = [micro_batch(experiment, step, n) for n in range(mesh.at.data, total, mesh.topology.data_size)]
        engine.train_step(batches, weights_at(experiment, step), experiment.optimizer.learning_rate)
        bad = guard.review(step + 1)
        trace.reasons.append(bad.reason if bad else None)
        trace.norms.append(engine.gradient_norm)
        trace.nats.append(engine.gather_losses().nats)
        trace.loss_scales.append(engine.loss_scale)
        if step in faults:
            after = snapshot(state)
            trace.unchanged.append(all(torch.equal(after[name], tensor) for name, tensor in before.items()))
    trace.parameters = {name: tensor.numpy() for _, weights, _ in state.export() for name, tensor in weights.items()}
    trace.skipped_by_deepspeed = engine.skipped_steps
    return trace


def faulty_case(values: dict[str, Any], faults: dict[int, str], where: int, refused: list[int]) -> tuple[Trace, Trace]:
    """On a rank: with faults under the guard, and without faults under a judge that refuses the same steps."""
    experiment = Experiment.model_validate(values)
    parallel = experiment.parallel
    mesh = start(Topology(parallel.pipe, parallel.data, parallel.tensor), torch.device("cpu"))
    fp16: AbstractContextManager[None] = fp16_on_cpu() if "fp16" in experiment.deepspeed else nullcontext()
    with fp16:
        faulty = run(experiment, mesh, faults, where, None)
        return faulty, run(experiment, mesh, {}, where, refused)


def guarded(pipe: int, tensor: int, data: int, deepspeed: str, **more: Any) -> Experiment:
    return small_experiment(
        deepspeed=deepspeed, parallel={"pipe": pipe, "tensor": tensor, "data": data}, training={"total_steps": 20},
        guard={"window": 4, "max_consecutive": 2}, **more
    )  # fmt: skip


def merged_parameters(traces: list[Trace]) -> dict[str, np.ndarray]:
    return {name: values for trace in traces for name, values in trace.parameters.items()}


@pytest.mark.parametrize(
    ("layout", "deepspeed"),
    [
        ((2, 1, 1), "fp32"),
        ((1, 2, 1), "fp32"),
        ((1, 1, 2), "fp32"),
        ((2, 1, 2), "fp32_zero1"),
        ((1, 2, 1), "fp32_zero2"),
        ((1, 1, 2), "fp32_zero2"),
        ((1, 1, 2), "fp32_zero3"),
        ((2, 1, 1), "bf16_zero1"),
        ((1, 1, 2), "bf16_zero2_offload"),
        ((1, 1, 2), "bf16_zero3_offload"),
    ],
)
def test_all_ranks_refuse_what_goes_wrong_on_one(ranks: Ranks, layout: tuple[int, int, int], deepspeed: str) -> None:
    """Bit by bit the run in which nothing goes wrong and the same steps are left out, and its norms."""
    world, where = int(np.prod(layout)), int(np.random.default_rng().integers(np.prod(layout)))
    experiment = guarded(*layout, deepspeed)
    results = ranks(world).run(faulty_case, experiment.model_dump(), FAULTS, where, list(FAULTS))
    faulty, clean = [result[0] for result in results], [result[1] for result in results]
    for trace in faulty:
        assert trace.reasons == faulty[0].reasons
        assert [step for step, reason in enumerate(trace.reasons) if reason] == list(FAULTS)
        assert trace.unchanged == [True] * len(FAULTS)
        assert trace.skipped_by_deepspeed == 0
    nan, inf, spike = (str(faulty[0].reasons[step]) for step in FAULTS)
    assert "the loss is nan" in nan
    assert "(seen on rank" in nan
    assert "the gradient norm is inf" in inf
    assert "the gradient norm is" in spike
    assert "the median of the 4 good steps before is" in spike

    for step in range(STEPS):
        if step in FAULTS:
            assert not faulty[0].nats[step].any()
        else:
            assert np.array_equal(faulty[0].nats[step], clean[0].nats[step])
            assert faulty[0].norms[step] == clean[0].norms[step]
    expected = merged_parameters(clean)
    for name, parameter in merged_parameters(faulty).items():
        assert np.array_equal(parameter, expected[name]), name
    if deepspeed.startswith("fp32"):
        single = Reference(experiment, STEPS, refused=FAULTS)
        for name, parameter in single.parameters.items():
            assert relative_error([expected[name]], [parameter]) < 1e-5, name


def test_offloaded_parameters_alone_are_guarded(ranks: Ranks, tmp_path: Path) -> None:
    """With `offload_param` and no `offload_optimizer`, ZeRO 3 keeps gradients as without offload, and no norms."""
    offload = {"stage": 3, "stage3_param_persistence_threshold": 0, "offload_param": {"device": "cpu"}}
    deepspeed = tmp_path / "offload_param.json"
    deepspeed.write_text(json.dumps({"bf16": {"enabled": True}, "zero_optimization": offload}))
    experiment = guarded(1, 1, 2, str(deepspeed))
    for faulty, clean in ranks(2).run(faulty_case, experiment.model_dump(), FAULTS, 1, list(FAULTS)):
        assert [step for step, reason in enumerate(faulty.reasons) if reason] == list(FAULTS)
        assert faulty.unchanged == [True] * len(FAULTS)
        assert [norm for step, norm in enumerate(faulty.norms) if step not in FAULTS] == [
            norm for step, norm in enumerate(clean.norms) if step not in FAULTS
        ]


@pytest.mark.parametrize("layout", [(2, 1, 1), (1, 1, 2)])
def test_fp16_overflows_are_left_to_the_loss_scale(ranks: Ranks, layout: tuple[int, int, int]) -> None:
    """A NaN loss is refused and the scale kept; gradients that overflow are DeepSpeed's, as long as it can act."""
    experiment = guarded(*layout, "fp16_zero1", optimizer={"name": "sgd", "learning_rate": 0.05})
    faults = {2: "loss", 4: "gradient", 6: "gradient"}
    traces = [trace for trace, _ in ranks(2).run(faulty_case, experiment.model_dump(), faults, 1, [])]
    for trace in traces:
        assert [step for step, reason in enumerate(trace.reasons) if reason] == [2]
        assert trace.unchanged == [True] * 3
        assert trace.skipped_by_deepspeed == 2
        assert trace.loss_scales[2] == trace.loss_scales[1]
        assert trace.loss_scales[6] == trace.loss_scales[1] / 2  # the first overflow is forgiven (hysteresis)


def figures_case(values: dict[str, Any]) -> tuple[list[StepFigures], list[float | None]]:
    """On a rank: the guard's figures, and the norms that DeepSpeed itself takes, clipping on."""
    experiment = Experiment.model_validate(values)
    parallel = experiment.parallel
    mesh = start(Topology(parallel.pipe, parallel.data, parallel.tensor), torch.device("cpu"))
    engine = build_engine(experiment, mesh)
    figures: list[StepFigures] = []
    engine.guard_steps(lambda step: figures.append(step) or True)  # type: ignore[func-returns-value]
    norms = []
    for step in range(3):
        total = experiment.batch.num_micro_batches
        batches = [micro_batch(experiment, step, n) for n in range(mesh.at.data, total, mesh.topology.data_size)]
        engine.train_step(batches, weights_at(experiment, step), experiment.optimizer.learning_rate)
        norms.append(engine.deepspeed.get_global_grad_norm())
    return figures, [None if norm is None else float(norm) for norm in norms]


@pytest.mark.parametrize(
    ("layout", "deepspeed"), [((2, 2, 1), "fp32"), ((2, 2, 1), "fp32_zero1"), ((1, 2, 2), "fp32_zero3")]
)
def test_figures_are_those_of_the_single_device(ranks: Ranks, layout: tuple[int, int, int], deepspeed: str) -> None:
    """Replicated parameters count once, and the loss is the mean over all replicas."""
    experiment = guarded(*layout, deepspeed)
    single = Reference(experiment, 3)
    everyone = ranks(4).run(figures_case, experiment.model_dump())
    assert all(figures == everyone[0][0] for figures, _ in everyone)
    for step, figures in enumerate(everyone[0][0]):
        characters = experiment.batch.global_size * experiment.model.context
        assert figures.loss_nats == pytest.approx(float(single.nats[step][-1, 0]) / characters, rel=1e-5)
    gradients = np.concatenate([gradient.ravel() for gradient in single.gradients.values()])
    assert everyone[0][0][0].gradient_norm == pytest.approx(np.linalg.norm(gradients), rel=1e-5)
    if deepspeed != "fp32":  # without ZeRO and clipping DeepSpeed takes no norm
        assert everyone[0][1] == pytest.approx([figures.gradient_norm for figures in everyone[0][0]], rel=1e-5)
