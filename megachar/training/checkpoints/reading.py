"""Tensors out of a checkpoint: into an engine, or into the single-device model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from megachar.config.schema import Experiment
from megachar.errors import CheckpointError
from megachar.models.transformer import Transformer
from megachar.parallel.mesh import fail_together
from megachar.parallel.state import EngineState
from megachar.training.checkpoints.format import Checkpoint, check_identity, find_checkpoint
from megachar.training.run_folder import RunFolder


@dataclass(frozen=True)
class LoadedModel:
    """A model at inference: on the CPU, in fp32, in evaluation mode, without auxiliary classifiers."""

    model: Transformer
    experiment: Experiment
    step: int


@dataclass(frozen=True)
class Position:
    """Where a run goes on."""

    step: int
    """Steps taken."""
    loop_state: dict[str, Any]
    """What the training loop had saved of its own."""


def read_layer(checkpoint: Checkpoint, kind: str, layer: str) -> dict[str, Tensor]:
    """Tensors of one layer; `kind` is "weights" or "optimizer". The file is compared with the manifest first."""
    name = f"{kind}/{layer}.safetensors"
    problem = checkpoint.problem(name)
    if problem is not None:
        raise CheckpointError(f"{problem}; {checkpoint.mend}")
    try:
        return load_file(checkpoint.path / name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{checkpoint.path / name} cannot be read: {error}; {checkpoint.mend}") from error


def load_model(run: Path, step: int | None = None) -> LoadedModel:
    """The model of a run at `step`, by default its newest checkpoint.

    Raises:
        ConfigError: `run` is not a run folder.
        CheckpointError: it has no such checkpoint, or the checkpoint is damaged.
    """
    folder = RunFolder(run)
    experiment = folder.load_experiment()
    checkpoint = find_checkpoint(folder, step)
    check_identity(checkpoint, experiment, "model")
    model = Transformer(experiment.model, auxiliary=None, kernels="torch")
    layers = ["embedding", *(f"blocks.{i}" for i in range(experiment.model.num_layers)), "head"]
    stored = {name: tensor for layer in layers for name, tensor in read_layer(checkpoint, "weights", layer).items()}
    model.load_state_dict({name: stored[name] for name in model.state_dict()})
    return LoadedModel(model.eval(), experiment, checkpoint.step)


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
    except CheckpointError as failure:
        error = failure
    fail_together(state.mesh, error)
    state.optimizer_steps = checkpoint.manifest.optimizer_steps
    state.loss_scaler = checkpoint.manifest.loss_scaler
    return Position(checkpoint.step, dict(checkpoint.manifest.loop_state))
