"""Checkpoints that know no layout: whole fp32 tensors by layer, a manifest written last, one rename.

    checkpoints/step-00001000/
        manifest.json                    what it is, and size and sha256 of every file
        weights/blocks.17.safetensors    parameter name -> tensor
        optimizer/blocks.17.safetensors  state key / parameter name -> tensor

A folder without a manifest is not a checkpoint.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from megachar.config.schema import Experiment
from megachar.errors import CheckpointError
from megachar.models.transformer import Transformer
from megachar.parallel.state import EngineState
from megachar.training.run_folder import RunFolder

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    path: Path
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        """Steps taken when it was saved."""
        return int(self.manifest["step"])

    def read(self, kind: str, layer: str) -> dict[str, Tensor]:
        """Tensors of one layer; `kind` is "weights" or "optimizer". The file is compared with the manifest first."""
        name = f"{kind}/{layer}.safetensors"
        path, expected = self.path / name, self.manifest["files"].get(name)
        mend = f"delete {self.path} to go on from an older checkpoint"
        if expected is None or not path.is_file():
            raise CheckpointError(f"{path} is missing; {mend}")
        if _fingerprint(path) != expected:
            raise CheckpointError(f"{path} is damaged: its size or sha256 is not the manifest's; {mend}")
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}; {mend}") from error


@dataclass(frozen=True)
class LoadedModel:
    """A model at inference: on the CPU, in fp32, in evaluation mode, without auxiliary classifiers."""

    model: Transformer
    experiment: Experiment
    step: int


def load_model(run: Path, step: int | None = None) -> LoadedModel:
    """The model of a run at `step`, by default its newest checkpoint.

    Raises:
        ConfigError: `run` is not a run folder.
        CheckpointError: it has no such checkpoint, or the checkpoint is damaged.
    """
    folder = RunFolder(run)
    experiment = folder.load_experiment()
    checkpoint = find_checkpoint(folder, step)
    _check_identity(checkpoint, experiment, "model")
    model = Transformer(experiment.model, auxiliary=None, kernels="torch")
    layers = ["embedding", *(f"blocks.{i}" for i in range(experiment.model.num_layers)), "head"]
    stored = {name: tensor for layer in layers for name, tensor in checkpoint.read("weights", layer).items()}
    model.load_state_dict({name: stored[name] for name in model.state_dict()})
    return LoadedModel(model.eval(), experiment, checkpoint.step)


def find_checkpoint(folder: RunFolder, step: int | None = None) -> Checkpoint:
    """The newest whole checkpoint of a run, or the one of `step`; `CheckpointError` if there is none."""
    found = list_checkpoints(folder)
    if not found:
        raise CheckpointError(f"{folder.path} has no whole checkpoint yet; train until training.checkpoint_interval")
    if step is None:
        return found[-1]
    for checkpoint in found:
        if checkpoint.step == step:
            return checkpoint
    steps = ", ".join(str(checkpoint.step) for checkpoint in found)
    raise CheckpointError(f"{folder.path} has no checkpoint of step {step}; it has those of step {steps}")


def list_checkpoints(folder: RunFolder) -> list[Checkpoint]:
    """All whole checkpoints of a run, oldest first."""
    return sorted(_whole_checkpoints(folder.checkpoints), key=lambda checkpoint: checkpoint.step)


def save_checkpoint(folder: RunFolder, state: EngineState, step: int, experiment: Experiment) -> Path:
    """Write a checkpoint of all ranks' state; every rank must call it. Older ones beyond `keep_checkpoints` go after.

    Raises:
        CheckpointError: on every rank, if any rank could not write; what was there before is untouched.
    """
    final = folder.checkpoints / f"step-{step:08d}"
    part = folder.checkpoints / f".step-{step:08d}.part"
    if state.mesh.is_main:
        shutil.rmtree(part, ignore_errors=True)
    dist.barrier()
    files, error = _write_layers(part, state)
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (files, error))
    error = next((failure for _, failure in everyone if failure), None)
    if state.mesh.is_main and error is None:
        error = _publish(part, final, everyone, state, step, experiment)
    if state.mesh.is_main and error is None:
        _delete_old(folder, experiment.training.keep_checkpoints)
    elif state.mesh.is_main:
        shutil.rmtree(part, ignore_errors=True)
    outcome = [error]
    dist.broadcast_object_list(outcome, src=0)
    if outcome[0]:
        raise CheckpointError(f"checkpoint {final} could not be saved: {outcome[0]}; free space or fix the folder. "
                              f"Checkpoints saved before are untouched")  # fmt: skip
    return final


def restore_checkpoint(checkpoint: Checkpoint, state: EngineState, experiment: Experiment) -> int:
    """Put a checkpoint's weights and optimizer state into an engine; returns the number of steps it had taken.

    Raises:
        CheckpointError: it is of another model or optimizer, or damaged.
    """
    _check_identity(checkpoint, experiment, "model", "auxiliary", "optimizer")
    state.restore(lambda layer: (checkpoint.read("weights", layer), checkpoint.read("optimizer", layer)))
    state.optimizer_steps = int(checkpoint.manifest["optimizer_steps"])
    state.loss_scaler = checkpoint.manifest["loss_scaler"]
    return checkpoint.step


def _write_layers(part: Path, state: EngineState) -> tuple[dict[str, Any], str | None]:
    """This rank's files under `part` with their fingerprints, or the reason why they could not be written.

    After a failure the remaining layers are still gathered, so that no other rank is left waiting.
    """
    files: dict[str, Any] = {}
    error: str | None = None
    for layer, weights, states in state.export():
        for kind, tensors in (("weights", weights), ("optimizer", states)):
            if not tensors or error is not None:
                continue
            name = f"{kind}/{layer}.safetensors"
            path = part / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                save_file(tensors, path)
                _fsync(path)
                files[name] = _fingerprint(path)
            except (OSError, SafetensorError) as failure:
                error = f"{path}: {failure}"
    return files, error


def _publish(
    part: Path, final: Path, everyone: list[Any], state: EngineState, step: int, experiment: Experiment
) -> str | None:
    """Write the manifest and give the folder its final name; the reason if that fails."""
    manifest = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "optimizer_steps": state.optimizer_steps,
        "loss_scaler": state.loss_scaler,
        "experiment": _identity(experiment),
        "files": {name: value for files, _ in everyone for name, value in files.items()},
    }
    try:
        path = part / MANIFEST
        path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        _fsync(path)
        replaced = final.with_name(f".{final.name}.replaced")
        if final.exists():  # the same step saved again after a resume
            final.rename(replaced)
        part.rename(final)
        _fsync(final.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError as failure:
        return f"{part}: {failure}"
    return None


def _check_identity(checkpoint: Checkpoint, experiment: Experiment, *keys: str) -> None:
    saved, now = checkpoint.manifest["experiment"], _identity(experiment)
    for key in keys:
        if saved.get(key) != now[key]:
            raise CheckpointError(f"{checkpoint.path} was saved with {key} = {saved.get(key)}, the experiment now has "
                                  f"{key} = {now[key]}; set it back, or start a new run")  # fmt: skip


def _identity(experiment: Experiment) -> dict[str, Any]:
    """What must be the same for a checkpoint to fit: the model's shapes, its classifiers and the optimizer's kind."""
    auxiliary = experiment.auxiliary
    return {
        "model": experiment.model.model_dump(mode="json", exclude={"dropout", "local_offsets"}),
        "auxiliary": {"intermediate_layers": auxiliary.intermediate_layers, "num_targets": auxiliary.num_targets},
        "optimizer": experiment.optimizer.name,
    }


def _whole_checkpoints(folder: Path) -> Iterator[Checkpoint]:
    for path in folder.glob("step-*") if folder.is_dir() else ():
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(manifest, dict) and manifest.get("format_version") == FORMAT_VERSION:
            yield Checkpoint(path, manifest)


def _delete_old(folder: RunFolder, keep: int) -> None:
    for checkpoint in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(checkpoint.path)


def _fingerprint(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
