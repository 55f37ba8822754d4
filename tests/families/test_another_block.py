"""A variant of the transformer's block is two files, its settings and its model; all else follows from them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import megachar

SETTING = '''    norm: Literal["layer", "rms"] = "layer"
    """Of the blocks."""
    dropout: Annotated'''
LAYER_NORM = "self.attention_norm = layer_norm(config.width, kernels)"
ANY_NORM = """self.attention_norm: nn.Module = layer_norm(config.width, kernels)
        if config.norm == "rms":
            self.attention_norm = nn.RMSNorm(config.width)"""
CHANGES = {"settings.py": ("    dropout: Annotated", SETTING), "model.py": (LAYER_NORM, ANY_NORM)}
"""File of families/transformer -> what is replaced in it."""
USE = """
import sys
from megachar.config.loading import load_experiment

small = ["model.num_layers=2", "model.width=32", "model.num_heads=2", "model.local_offsets=[]", "model.context=16",
         "batch.global_size=8", "parallel.data=1", "deepspeed=fp32", "training.gradient_clipping=0"]
experiment = load_experiment("small", [*small, "model.norm=rms"])
plain = load_experiment("small", small)
assert "torch" not in sys.modules
from megachar.runs.checkpoints.format import identity

assert identity(experiment) != identity(plain)
import torch
from megachar.parallel.mesh import start
from megachar.parallel.topology import Topology
from megachar.selftest.parity import check_parity
from megachar.optimizers.sgd import SgdConfig

sgd = experiment.model_copy(update={"optimizer": SgdConfig(learning_rate=0.1, momentum=0.9)})
mesh = start(Topology(1, 1, 1), torch.device("cpu"))
print(check_parity(sgd, mesh).problems)
"""


def test_two_files_are_a_block(tmp_path: Path) -> None:
    """It trains under the engine as it does on a single device, and is part of what a checkpoint must fit."""
    package = Path(megachar.__file__).parent
    shutil.copytree(package, tmp_path / "megachar", ignore=shutil.ignore_patterns("__pycache__"))
    for name, (old, new) in CHANGES.items():
        path = tmp_path / "megachar" / "families" / "transformer" / name
        text = path.read_text()
        assert text.count(old) == 1, name
        path.write_text(text.replace(old, new))
    for folder in ("ds_configs", "launcher"):
        (tmp_path / folder).symlink_to(package.parent / folder)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "MASTER_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-c", USE], capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
