"""Tensors out of a checkpoint: into an engine, or into the single-device model."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from megachar.base.errors import CheckpointError
from megachar.base.files import is_utf8, shown
from megachar.config.experiment import Experiment
from megachar.config.loading import parse_experiment
from megachar.families.model import Model, build_model
from megachar.families.parameters import layer_name
from megachar.parallel.mesh import fail_together
from megachar.parallel.state import EngineState
from megachar.runs.checkpoints.format import UNREADABLE, Checkpoint, check_identity, problem_of_reading, with_mend
from megachar.runs.checkpoints.single_file import json_path, problem_of, read_card
from megachar.runs.checkpoints.sources import check_file, find_source, load_settings, refuse_step
from megachar.runs.checkpoints.tensors import Shapes, difference, optimizer_shapes, tensor_shapes


@dataclass(frozen=True)
class LoadedModel:
    """A model at inference: on the CPU, in fp32, in evaluation mode, without auxiliary classifiers."""

    model: Model
    experiment: Experiment
    step: int


@dataclass(frozen=True)
class Position:
    """Where a run goes on."""

    step: int
    """Steps taken."""
    loop_state: dict[str, Any]
    """What the training loop had saved of its own."""
    windows: int = 0
    """Windows of the text read, or gone past: where the next step goes on reading, whatever its batch."""


class LayerShapes:
    """Of the tensors that a checkpoint of an experiment has in each of its files."""

    def __init__(self, experiment: Experiment) -> None:
        self._weights = weight_shapes(experiment, with_auxiliary=True)
        self._keys = experiment.optimizer.state_keys

    def of(self, kind: str, layer: str) -> Shapes | None:
        """Of one file; None for streams, whose rows are cut in another way in every layout."""
        if kind == "streams":
            return None
        weights = {name: shape for name, shape in self._weights.items() if layer_name(name) == layer}
        return weights if kind == "weights" else optimizer_shapes(weights, self._keys)


def read_layer(checkpoint: Checkpoint, kind: str, layer: str, shapes: Shapes | None = None) -> dict[str, Tensor]:
    """Tensors of one file of a kind: weights, optimizer or streams.

    Args:
        checkpoint: with whose manifest the file is compared first.
        kind: of the file.
        layer: or, of streams, the number of the first.
        shapes: of all tensors that it must hold; None: any.

    Raises:
        CheckpointError: the file is another than the manifest's, or its tensors do not fit or are not finite.
    """
    name = f"{kind}/{layer}.safetensors"
    problem = checkpoint.problem(name)
    if problem is not None:
        raise CheckpointError(with_mend(problem, checkpoint.mend))
    return _load(checkpoint, name, shapes)


def _load(checkpoint: Checkpoint, name: str, shapes: Shapes | None) -> dict[str, Tensor]:
    """The tensors of a file that is the manifest's. Raises as `read_layer`."""
    path = checkpoint.path / name
    if not is_utf8(path):
        raise CheckpointError(
            f"{shown(path)}{UNREADABLE}safetensors takes no name that is not UTF-8; rename the folder"
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        why = problem_of_reading(path, error) if isinstance(error, OSError) else f"{path} is damaged: {error}"
        raise CheckpointError(with_mend(why, checkpoint.mend)) from error
    problem = problem_of_values(tensors, shapes)
    if problem is not None:
        raise CheckpointError(f"{path} is damaged: {problem}; {checkpoint.mend}")
    return tensors


def problem_of_values(tensors: dict[str, Tensor], shapes: Shapes | None = None) -> str | None:
    """What is wrong with tensors that were read: they are fp32 and finite and, with `shapes`, exactly those."""
    if shapes is not None:
        problem = difference({name: tuple(tensor.shape) for name, tensor in tensors.items()}, shapes)
        if problem is not None:
            return problem
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            return f"{name:.200} is of type {tensor.dtype}, and checkpoints are fp32"
        if not torch.isfinite(tensor).all():
            return f"{name:.200} holds numbers that are not finite: training had diverged"
    return None


def problems_of(checkpoint: Checkpoint, names: Iterable[str] | None = None) -> list[str]:
    """What is wrong with these of a checkpoint's files, by default with any, their tensors included."""
    chosen = sorted(checkpoint.manifest.files if names is None else names)
    problems, settings = checkpoint.problems(chosen), checkpoint.manifest.settings
    if problems:
        return problems
    shapes = None if settings is None else LayerShapes(parse_experiment(settings, str(checkpoint.path)))
    for name in chosen:
        kind, _, file = name.rpartition("/")
        if not kind:  # of the vocabulary
            continue
        try:
            layer = file.removesuffix(".safetensors")
            _load(checkpoint, name, None if shapes is None else shapes.of(kind, layer))
        except CheckpointError as error:
            problems.append(str(error).removesuffix(f"; {checkpoint.mend}"))
    return problems


def load_model(source: Path, step: int | None = None) -> LoadedModel:
    """The model of a run folder at `step`, by default its newest checkpoint; of one checkpoint; of an exported file.

    Raises:
        ConfigError: `source` is none of them, or `step` is given where there is only one.
        CheckpointError: it has no such checkpoint, or the checkpoint is damaged.
    """
    experiment = load_settings(source)
    names = weight_shapes(experiment, with_auxiliary=False)
    if source.is_file():
        refuse_step(source, step)
        found_step, stored = read_card(source).step, _read_file(source, names)
    else:
        checkpoint = find_source(source, step)
        check_identity(checkpoint, experiment, "model")
        found_step, stored = checkpoint.step, {}
        shapes = LayerShapes(load_settings(checkpoint.path))  # whose auxiliary classifiers may have been others
        for layer in sorted({layer_name(name) for name in names}):
            stored |= read_layer(checkpoint, "weights", layer, shapes.of("weights", layer))
    model = build_model(experiment.model, auxiliary=None)
    model.load_state_dict({name: stored[name] for name in names})
    return LoadedModel(model.eval(), experiment, found_step)


def weight_shapes(experiment: Experiment, with_auxiliary: bool) -> Shapes:
    """Name and shape of every weight of the single-device model, with its auxiliary classifiers or at inference."""
    with torch.device("meta"):
        model = build_model(experiment.model, experiment.auxiliary if with_auxiliary else None)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _read_file(path: Path, shapes: Shapes) -> dict[str, Tensor]:
    """These weights of an exported file, which is compared with the JSON beside it, where that is there."""
    found = {name: shape for name, shape in tensor_shapes(path).items() if name in shapes}
    if (problem := difference(found, shapes)) is not None:
        raise CheckpointError(f"{path} does not fit its own settings: {problem}; export it again")
    check_file(path)
    if json_path(path).is_file() and (problem := problem_of(path)) is not None:
        raise CheckpointError(f"{problem}; copy both again")
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in shapes}
    if (problem := problem_of_values(tensors, shapes)) is not None:
        raise CheckpointError(f"{path} is damaged: {problem}; export it again")
    return tensors


def restore_checkpoint(checkpoint: Checkpoint, state: EngineState, experiment: Experiment) -> Position:
    """Put a checkpoint's weights and optimizer state into an engine; returns where it goes on. Every rank must call it.

    Raises:
        CheckpointError: on every rank: it is of another model or optimizer, or a rank found it damaged.
    """
    check_identity(checkpoint, experiment, "model", "auxiliary", "optimizer")
    error: CheckpointError | None = None
    shapes = LayerShapes(experiment)

    def read(kind: str, layer: str) -> dict[str, Tensor]:
        return read_layer(checkpoint, kind, layer, shapes.of(kind, layer))

    try:
        state.restore(lambda layer: (read("weights", layer), read("optimizer", layer)))
        state.engine.stage.restore_streams(_read_streams(checkpoint, experiment))
    except CheckpointError as failure:
        error = failure
    fail_together(state.mesh, error)
    state.optimizer_steps = checkpoint.manifest.optimizer_steps
    state.loss_scaler = checkpoint.manifest.loss_scaler
    return Position(checkpoint.step, dict(checkpoint.manifest.loop_state), _windows_read(checkpoint, experiment))


def _windows_read(checkpoint: Checkpoint, experiment: Experiment) -> int:
    """By its own count, or where an older megachar saved it, by its steps and the batch it had then."""
    manifest = checkpoint.manifest
    windows, skipped = manifest.loop_state.get("windows"), manifest.loop_state.get("skipped_batches", 0)
    if windows is None:
        batch = (manifest.settings or {}).get("batch", {})
        windows = (manifest.step + skipped) * batch.get("global_size", experiment.batch.global_size)
    return int(windows)


def _read_streams(checkpoint: Checkpoint, experiment: Experiment) -> dict[str, Tensor]:
    """What all streams carry on, a row each; empty where none were saved."""
    parts = [read_layer(checkpoint, "streams", name) for name in checkpoint.layers("streams")]
    tensors = {name: torch.cat([part[name] for part in parts]) for name in (parts[0] if parts else ())}
    found, wanted = len(tensors["epoch"]) if tensors else 0, experiment.batch.global_size
    if tensors and found != wanted:
        raise CheckpointError(
            f"{checkpoint.path} was saved with {found} streams, and batch.global_size is now {wanted}: each carries on "
            f"what it has read of its own text; set batch.global_size={found}, or start a new run"
        )
    return tensors
