"""Checkpoints written by all ranks of a run."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save_file

from megachar.config.schema import Experiment
from megachar.errors import CheckpointError
from megachar.parallel.state import EngineState
from megachar.training.checkpoints.format import FORMAT_VERSION, MANIFEST, FileRecord, Manifest, fingerprint, identity
from megachar.training.checkpoints.retention import delete_old
from megachar.training.run_folder import RunFolder


def save_checkpoint(
    folder: RunFolder, state: EngineState, step: int, experiment: Experiment, loop_state: dict[str, Any]
) -> Path:
    """Write a checkpoint of all ranks' state; every rank must call it. Older ones beyond `keep_checkpoints` go after.

    `loop_state` is what the training loop wants back when it goes on from here (`Position`).

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
        error = _publish(part, final, _manifest(everyone, state, step, experiment, loop_state))
    if state.mesh.is_main and error is None:
        delete_old(folder, experiment.training.keep_checkpoints)
    elif state.mesh.is_main:
        shutil.rmtree(part, ignore_errors=True)
    outcome = [error]
    dist.broadcast_object_list(outcome, src=0)
    if outcome[0]:
        raise CheckpointError(f"checkpoint {final} could not be saved: {outcome[0]}; free space or fix the folder. "
                              f"Checkpoints saved before are untouched")  # fmt: skip
    return final


def _write_layers(part: Path, state: EngineState) -> tuple[dict[str, FileRecord], str | None]:
    """This rank's files under `part` with their fingerprints, or the reason why they could not be written.

    After a failure the remaining layers are still gathered, so that no other rank is left waiting.
    """
    files: dict[str, FileRecord] = {}
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
                files[name] = fingerprint(path)
            except (OSError, SafetensorError) as failure:
                error = f"{path}: {failure}"
    return files, error


def _manifest(
    everyone: list[Any], state: EngineState, step: int, experiment: Experiment, loop_state: dict[str, Any]
) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        step=step,
        optimizer_steps=state.optimizer_steps,
        loss_scaler=state.loss_scaler,
        loop_state=loop_state,
        experiment=identity(experiment),
        files={name: value for files, _ in everyone for name, value in files.items()},
    )


def _publish(part: Path, final: Path, manifest: Manifest) -> str | None:
    """Write the manifest and give the folder its final name; the reason if that fails."""
    try:
        path = part / MANIFEST
        path.write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
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


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
