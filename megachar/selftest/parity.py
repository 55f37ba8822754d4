"""A tiny model on the real layout, under the experiment's DeepSpeed JSON, against the single-device model.

Every rank compares the losses and gradients of its own micro-batches before they are reduced, so that what goes wrong
is found where it does; then what the reduction gave, and the parameters after some steps.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from megachar.config.checks import check_experiment
from megachar.config.experiment import Experiment
from megachar.config.sections.data import DataConfig
from megachar.config.sections.layout import BatchConfig
from megachar.config.sections.training import GuardConfig, TrainingConfig
from megachar.families.parameters import rule_of
from megachar.families.transformer.settings import TransformerConfig
from megachar.optimizers.schedules import ScheduleConfig
from megachar.optimizers.sgd import SgdConfig
from megachar.parallel.engine import TrainingEngine
from megachar.parallel.library import local_piece, working_copy
from megachar.parallel.mesh import Mesh
from megachar.parallel.state import EngineState
from megachar.parallel.tensor import cut
from megachar.parallel.topology import Topology
from megachar.selftest.findings import Findings, Problem
from megachar.selftest.reference import Reference, micro_batch, relative_error, weights_at
from megachar.training.setup import build_engine

STEPS = 4
LOSSES, GRADIENTS, REDUCED, PARAMETERS = "own losses", "own gradients", "reduced gradients", "parameters"
CHECKS = (LOSSES, GRADIENTS, REDUCED, PARAMETERS)
"""In the order in which one follows from the other."""
EXACT, HALF = (1e-5, 1e-4), (4e-2, 4e-1)
"""Largest relative errors, of all tensors as one and of any single one: in fp32 on CPUs, and in half precision."""
ON_GPU = (1e-4, 1e-3)
"""The same in fp32 on GPUs."""


def shrink(experiment: Experiment) -> Experiment:
    """The experiment's layout, DeepSpeed JSON, device and auxiliary losses with a model that takes no time.

    Clipping is off and the optimizer is SGD, which feels a wrong scale of the gradients. No dropout: its masks are
    another matter, and differ between tensor ranks.
    """
    parallel, tensor = experiment.parallel, experiment.parallel.tensor
    heads = tensor if tensor > 1 else 2
    model = TransformerConfig(
        num_layers=2 * parallel.pipe, width=16 * heads, num_heads=heads, feed_forward_width=32 * heads, context=16,
        vocabulary_size=16 * heads,
    )  # fmt: skip
    if hasattr(experiment.model, "positions"):
        model = model.model_copy(update={"positions": experiment.model.positions})
    small = experiment.model_copy(update={
        "model": model,
        "data": DataConfig(),
        "auxiliary": experiment.auxiliary.model_copy(update={"interval_steps": None}),
        "optimizer": SgdConfig(learning_rate=0.1, momentum=0.9),
        "batch": BatchConfig(micro_size=2, global_size=2 * 2 * parallel.data),
        "schedule": ScheduleConfig(),
        "training": TrainingConfig(total_steps=STEPS, gradient_clipping=0.0),
        "guard": GuardConfig(action="off"),
        "kernels": "torch",
    })  # fmt: skip
    check_experiment(small)
    return small


def check_parity(experiment: Experiment, mesh: Mesh, limits: tuple[float, float] | None = None) -> Findings:
    """Train a small model on all ranks under SGD with momentum, such as that of `shrink`, and compare.

    `limits`: largest relative errors, of all tensors as one and of any single one; None: those of the precision.
    """
    own = range(mesh.at.data, experiment.batch.num_micro_batches, mesh.topology.data_size)
    reference = Reference(experiment, STEPS, own)
    engine = build_engine(experiment, mesh)
    state, comparison = EngineState(engine, experiment.optimizer.state_keys), _Comparison(engine, limits)
    for step in range(STEPS):
        batches = [micro_batch(experiment, step, number).to(mesh.device) for number in own]
        with _OwnGradients(engine) as gradients:
            engine.train_step(batches, weights_at(experiment, step), experiment.optimizer.learning_rate)
        if step == 0:
            comparison.add(LOSSES, *_own_losses(engine, reference))
            comparison.add(GRADIENTS, gradients.means(), _pieces(reference.own_gradients, engine))
            reduced = {name.removeprefix("momentum_buffer/"): tensor
                       for _, _, states in state.export() for name, tensor in states.items()}  # fmt: skip
            comparison.add(REDUCED, reduced, {name: reference.gradients[name] for name in reduced})
    comparison.add(PARAMETERS, *_parameters(engine, reference))
    return comparison.findings


def drop_consequences(problems: Iterable[Problem], topology: Topology) -> list[Problem]:
    """Of the model's problems those that do not follow from others.

    A check's problems follow from those of the check before. A wrong loss spreads to later stages of its replica, a
    wrong gradient to earlier ones.
    """
    problems = list(problems)
    others = [problem for problem in problems if problem.check not in CHECKS]
    first = next((check for check in CHECKS if any(problem.check == check for problem in problems)), None)
    found = [problem for problem in problems if problem.check == first]
    if first in (LOSSES, GRADIENTS):
        sign = 1 if first == LOSSES else -1
        places = [(problem, topology.coordinates(problem.suspects[0])) for problem in found]
        found = [problem for problem, at in places
                 if not any(one.data == at.data and sign * one.pipe < sign * at.pipe for _, one in places)]  # fmt: skip
    return others + found


class _Comparison:
    """Relative errors of one check after the other, and the problems among them."""

    def __init__(self, engine: TrainingEngine, limits: tuple[float, float] | None) -> None:
        self.mesh, self.findings = engine.mesh, Findings()
        half = engine.engine_config.precision != "fp32"
        self.limits = limits or (HALF if half else ON_GPU if self.mesh.device.type == "cuda" else EXACT)

    def add(self, check: str, actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
        """Compare tensors on the CPU by name."""
        if not expected:
            return
        errors = {name: relative_error([actual[name]], [expected[name]]) for name in expected}
        whole = relative_error([actual[name] for name in expected], expected.values())
        worst = max(errors, key=lambda name: errors[name])
        self.findings.errors[check] = whole
        if whole <= self.limits[0] and errors[worst] <= self.limits[1]:
            return
        scale = _dot(actual, expected) / _dot(expected, expected)
        text = (
            f"relative error {whole:.2g}, of {worst} {errors[worst]:.2g}, where {self.limits[0]:g} and "
            f"{self.limits[1]:g} are allowed; on the whole {scale:.3g} times what they should be"
        )
        mesh = self.mesh
        suspects: tuple[int, ...] = (mesh.rank,)
        if check == REDUCED:
            suspects = tuple(rank for rank in range(mesh.topology.world_size)
                             if mesh.topology.coordinates(rank).pipe == mesh.at.pipe)  # fmt: skip
        stage = f"stage {mesh.at.pipe}, replica {mesh.at.data}" if check != REDUCED else f"stage {mesh.at.pipe}"
        self.findings.problems.append(Problem(check, stage, suspects, suspects, text, (mesh.rank,)))


class _OwnGradients:
    """Adds up this rank's gradients of a step as they come out of the backward passes, before anything is reduced."""

    def __init__(self, engine: TrainingEngine) -> None:
        self._engine, self._scale = engine, engine.loss_scale
        self._sums: dict[str, Tensor] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> "_OwnGradients":
        for name, parameter in self._engine.stage.named_parameters():
            self._hooks.append(parameter.register_hook(lambda gradient, name=name: self._add(name, gradient)))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _add(self, name: str, gradient: Tensor) -> None:
        gradient = gradient.detach().to("cpu", torch.float32, copy=True)
        self._sums[name] = self._sums[name] + gradient if name in self._sums else gradient

    def means(self) -> dict[str, Tensor]:
        """The mean over this rank's micro-batches; zero where there was no gradient."""
        named = dict(self._engine.stage.named_parameters())
        return {name: self._sums[name] / self._scale if name in self._sums else torch.zeros(()) for name in named}


def _own_losses(engine: TrainingEngine, reference: Reference) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sums of nats by layer, as this rank took them, and as they should be."""
    sums = engine.stage.meter.take(torch.device("cpu"))
    local = [layer for layer in range(len(sums)) if sums[layer, -1] > 0]
    return ({f"layer {layer}": sums[layer, :-1] for layer in local},
            {f"layer {layer}": reference.own_nats[layer] for layer in local})  # fmt: skip


def _parameters(engine: TrainingEngine, reference: Reference) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """This rank's working copies, under ZeRO 3 its parts of them, and what they should be."""
    whole, named, mesh = _pieces(reference.parameters, engine), dict(engine.stage.named_parameters()), engine.mesh
    actual = {name: working_copy(parameter).to("cpu", torch.float32) for name, parameter in named.items()}
    return actual, {name: local_piece(parameter, whole[name], mesh.at.data, mesh.topology.data_size)
                    for name, parameter in named.items()}  # fmt: skip


def _pieces(whole: dict[str, Tensor], engine: TrainingEngine) -> dict[str, Tensor]:
    """Of the single-device model's tensors those of this rank's stage, cut as it holds them."""
    mesh = engine.mesh
    pieces = {}
    for name, _ in engine.stage.named_parameters():
        sharding = rule_of(engine.stage.config, name).sharding
        pieces[name] = whole[name] if sharding is None else cut(whole[name], sharding, mesh.at.tensor,
                                                                mesh.topology.tensor_size)  # fmt: skip
    return pieces


def _dot(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    return sum(float((first[name].double() * second[name].double()).sum()) for name in second)
