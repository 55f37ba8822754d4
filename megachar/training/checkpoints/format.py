"""Checkpoints that know no layout: whole fp32 tensors by layer, a manifest written last, one rename.

    checkpoints/step-00001000/
        manifest.json                    what it is, and size and sha256 of every file
        weights/blocks.17.safetensors    parameter name -> tensor
        optimizer/blocks.17.safetensors  state key / parameter name -> tensor

A folder without a manifest is not a checkpoint. Nothing here is ever unpickled: it is all JSON and safetensors. This
file imports no torch.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from megachar.config.schema import Experiment
from megachar.errors import CheckpointError
from megachar.training.run_folder import RunFolder

FORMAT_VERSION: Final = 1
MANIFEST = "manifest.json"


class FileRecord(BaseModel):
    """What the manifest says of one file."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """`manifest.json`: all that is known of a checkpoint without reading its tensors."""

    model_config = ConfigDict(frozen=True)

    format_version: Literal[1]
    step: int
    """Steps taken when it was saved."""
    optimizer_steps: int
    """Updates the optimizer has counted; fewer than `step` where some were skipped."""
    loss_scaler: dict[str, float]
    """State of the fp16 loss scaling; empty in other precisions."""
    loop_state: dict[str, Any] = {}
    """Small state of the training loop's own, of JSON's types."""
    experiment: dict[str, Any]
    """What must be the same for the checkpoint to fit (`identity`)."""
    files: dict[str, FileRecord]
    """Of every file, by its path inside the folder."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose manifest is whole."""

    path: Path
    manifest: Manifest

    @property
    def step(self) -> int:
        """Steps taken when it was saved."""
        return self.manifest.step

    def check_file(self, name: str) -> None:
        """Compare one file with the manifest; `CheckpointError` naming it where it is missing or another."""
        path, expected = self.path / name, self.manifest.files.get(name)
        if expected is None or not path.is_file():
            raise CheckpointError(f"{path} is missing; {self.mend}")
        if fingerprint(path) != expected:
            raise CheckpointError(f"{path} is damaged: its size or sha256 is not the manifest's; {self.mend}")

    @property
    def mend(self) -> str:
        """What to do about a checkpoint that cannot be read."""
        return f"delete {self.path} to go on from an older checkpoint"


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


def check_identity(checkpoint: Checkpoint, experiment: Experiment, *keys: str) -> None:
    """Raise `CheckpointError` unless the checkpoint fits the experiment in these `keys` of `identity`."""
    saved, now = checkpoint.manifest.experiment, identity(experiment)
    for key in keys:
        if saved.get(key) != now[key]:
            raise CheckpointError(f"{checkpoint.path} was saved with {key} = {saved.get(key)}, the experiment now has "
                                  f"{key} = {now[key]}; set it back, or start a new run")  # fmt: skip


def identity(experiment: Experiment) -> dict[str, Any]:
    """What must be the same for a checkpoint to fit: the model's shapes, its classifiers and the optimizer's kind."""
    auxiliary = experiment.auxiliary
    return {
        "model": experiment.model.model_dump(mode="json", exclude={"dropout", "local_offsets"}),
        "auxiliary": {"intermediate_layers": auxiliary.intermediate_layers, "num_targets": auxiliary.num_targets},
        "optimizer": experiment.optimizer.name,
    }


def fingerprint(path: Path) -> FileRecord:
    """Size and sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return FileRecord(bytes=path.stat().st_size, sha256=digest.hexdigest())


def _whole_checkpoints(folder: Path) -> Iterator[Checkpoint]:
    for path in folder.glob("step-*") if folder.is_dir() else ():
        try:
            yield Checkpoint(path, Manifest.model_validate(json.loads((path / MANIFEST).read_text(encoding="utf-8"))))
        except (OSError, ValueError, ValidationError):
            continue
