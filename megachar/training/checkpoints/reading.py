"""Tensors out of a checkpoint: into an engine, or into the single-device model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from megachar.config.recurrent import RecurrentConfig
from megachar.config.schema import AuxiliaryConfig, Experiment
from megachar.errors import CheckpointError
from megachar.files import is_utf8, shown
from megachar.models.recurrent import RecurrentModel
from megachar.models.transformer import Transformer
from megachar.parallel.mesh import fail_together
from megachar.parallel.state import EngineState, layer_name
from megachar.training.checkpoints.format import UNREADABLE, Checkpoint, check_identity, problem_of_reading, with_mend
from megachar.training.checkpoints.single_file import read_card, tensor_shapes
from megachar.training.checkpoints.sources import find_source, load_settings, refuse_step


@dataclass(frozen=True)
class LoadedModel:
    """A model at inference: on the CPU, in fp32, in evaluation mode, without auxiliary classifiers."""

    model: Transformer | RecurrentModel
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


def read_layer(checkpoint: Checkpoint, kind: str, layer: str) -> dict[str, Tensor]:
    """Tensors of one file of a kind: weights, optimizer or streams. The file is compared with the manifest first."""
    name = f"{kind}/{layer}.safetensors"
    problem = checkpoint.problem(name)
    if problem is not None:
        raise CheckpointError(with_mend(problem, checkpoint.mend))
    path = checkpoint.path / name
    if not is_utf8(path):
        raise CheckpointError(
            f"{shown(path)}{UNREADABLE}safetensors takes no name that is not UTF-8; rename the folder"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        problem = problem_of_reading(path, error) if isinstance(error, OSError) else f"{path} is damaged: {error}"
        raise CheckpointError(with_mend(problem, checkpoint.mend)) from error


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
        for layer in sorted({layer_name(name) for name in names}):
            stored |= read_layer(checkpoint, "weights", layer)
    model = _build(experiment, auxiliary=None)
    model.load_state_dict({name: stored[name] for name in names})
    return LoadedModel(model.eval(), experiment, found_step)


def weight_shapes(experiment: Experiment, with_auxiliary: bool) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of the single-device model, with its auxiliary classifiers or at inference."""
    with torch.device("meta"):
        model = _build(experiment, experiment.auxiliary if with_auxiliary else None)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _build(experiment: Experiment, auxiliary: AuxiliaryConfig | None) -> Transformer | RecurrentModel:
    """The single-device model, its weights not yet set."""
    if isinstance(experiment.model, RecurrentConfig):
        return RecurrentModel(experiment.model)
    return Transformer(experiment.model, auxiliary, kernels="torch")


def _read_file(path: Path, names: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """These weights of an exported file."""
    shapes = tensor_shapes(path)
    for name, shape in names.items():
        if shapes.get(name) != shape:
            raise CheckpointError(f"{path} does not fit its own settings: {name} has shape {shapes.get(name, 'none')} "
                                  f"and should have {shape}; export it again")  # fmt: skip
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in names}


def restore_checkpoint(checkpoint: Checkpoint, state: EngineState, experiment: Experiment) -> Position:
    """Put a checkpoint's weights and optimizer state into an engine; returns where it goes on. Every rank must call it.

    Raises:
        CheckpointError: on every rank: it is of another model or optimizer, or a rank found it damaged.
    """
    check_identity(checkpoint, experiment, "model", "auxiliary", "optimizer")
    error: CheckpointError | None = None
    try:
        state.restore(
            lambda layer: (read_layer(checkpoint, "weights", layer), read_layer(checkpoint, "optimizer", layer))
        )
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
