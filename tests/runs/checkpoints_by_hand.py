"""Checkpoints written by hand, as the format is described in megachar/runs/checkpoints/format.py."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from megachar.config.experiment import Experiment
from megachar.config.loading import load_experiment, save_experiment
from megachar.runs.folder import RunFolder
from tests.config.conftest import BASE

SMALL = ["model.num_layers=2", "model.width=8", "model.feed_forward_width=8", "model.context=8", "parallel.pipe=1"]
NOT_SHAPES = {"family", "dropout", "local_offsets", "hidden_dropout", "embedding_dropout", "forget_bias",
              "orthogonal_scale"}  # fmt: skip
ADAM_KEYS = ("exp_avg", "exp_avg_sq")
KEYS = {"adamw": ADAM_KEYS, "sgd": ("momentum_buffer",), "normalized_rmsprop": ("mean_square",)}


def small(*overrides: str) -> Experiment:
    return load_experiment(BASE, [*SMALL, *overrides])


def layer_of(name: str) -> str:
    return ".".join(name.split(".")[:2]) if name.startswith(("blocks", "layers")) else name.split(".")[0]


def optimizer_state(name: str, key: str, weight: Tensor) -> Tensor:
    """Something of the weight's shape that neither the name nor the key of another tensor gives."""
    generator = torch.Generator().manual_seed(int(hashlib.sha256(f"{key}/{name}".encode()).hexdigest()[:8], 16))
    return torch.randn(weight.shape, generator=generator) * float(weight.detach().sum())


def write_checkpoint(
    run: RunFolder, step: int, weights: dict[str, Tensor], experiment: Experiment, name: str = "", **more: Any
) -> Path:
    """`more` are entries of the manifest."""
    path, files = run.checkpoints / (name or f"step-{step:08d}"), {}
    path.mkdir(parents=True)
    for layer in sorted({layer_of(name) for name in weights}):
        tensors = {name: tensor.contiguous() for name, tensor in weights.items() if layer_of(name) == layer}
        states = {f"{key}/{name}": optimizer_state(name, key, tensor) for name, tensor in tensors.items()
                  for key in KEYS[experiment.optimizer.name]}  # fmt: skip
        for kind, held in (("weights", tensors), ("optimizer", states)):
            (path / kind).mkdir(parents=True, exist_ok=True)
            file = f"{kind}/{layer}.safetensors"
            save_file(held, path / file)
            data = (path / file).read_bytes()
            files[file] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    auxiliary = experiment.auxiliary
    identity = {
        "model": experiment.model.model_dump(mode="json", exclude=NOT_SHAPES),
        "auxiliary": {"intermediate_layers": auxiliary.intermediate_layers, "num_targets": auxiliary.num_targets},
        "optimizer": experiment.optimizer.name,
    }
    manifest = {"format_version": 1, "step": step, "optimizer_steps": step - 1, "loss_scaler": {},
                "loop_state": {"skipped": 3}, "experiment": identity, "files": files,
                "settings": experiment.model_dump(mode="json"), "precision": "bf16",
                "data": {"fingerprint": "abcd", "description": "some text"}, **more}  # fmt: skip
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def write_run(folder: RunFolder, weights: dict[str, Tensor], experiment: Experiment) -> RunFolder:
    """Checkpoints of steps 5, 20 and 100; the weights of step s are those given times s / 100."""
    folder.path.mkdir(parents=True)
    save_experiment(experiment, folder.experiment_file)
    for step, bits in ((100, 2.5), (5, 3.25), (20, None)):
        held = {name: value.detach() * (step / 100) for name, value in weights.items()}
        write_checkpoint(folder, step, held, experiment, validation_bits=bits)
    return folder
