"""Training through real launchers: `megachar launch` (DeepSpeed's runner), torchrun, and a rank that fails."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from megachar.data.preprocess import cut_by_position, prepare_corpus
from megachar.data.vocabulary import ByteVocabulary
from megachar.training.metrics import read_metrics
from megachar.training.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
# Clipping is off: stages add up the gradient norm in another order than one process does.
SMALL = ["quickstart", "model.num_layers=2", "model.width=32", "model.num_heads=2", "model.local_offsets=[]",
         "training.total_steps=4", "training.log_interval=1", "training.validation_windows=4",
         "schedule.warmup_steps=1", "training.gradient_clipping=0"]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "text").write_bytes(np.random.default_rng(1).integers(97, 123, 8000, dtype=np.uint8).tobytes())
    prepare_corpus(cut_by_position(folder / "text"), folder / "prepared", ByteVocabulary())
    return folder / "prepared"


def run(command: list[str], timeout: float = 120) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, cwd=ROOT)


def left_over(marker: str) -> list[str]:
    """Command lines of processes that still hold the marker."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if marker in line:
            found.append(line)
    return found


def test_every_launcher_trains_the_same(corpus: Path, tmp_path: Path) -> None:
    """DeepSpeed's runner over two stages, torchrun over two stages, and one plain process: the same bits."""
    train = str(ROOT / "launcher" / "train.py")
    launch = [sys.executable, "-c", "from megachar.cli import main; main()", "launch"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", train]
    commands = {
        "deepspeed": [*launch, *SMALL],
        "torchrun": [*torchrun, *SMALL],
        "plain": [sys.executable, train, *SMALL, "parallel.pipe=1"],
    }
    losses = {}
    for name, command in commands.items():
        result = run([*command, f"data.path={corpus}", f"output={tmp_path}", f"name={name}"])
        assert result.returncode == 0, result.stderr
        assert "step 4: saved" in result.stdout
        records = read_metrics(RunFolder(tmp_path / name), "train")
        losses[name] = [(record["step"], record["bits_per_character"]) for record in records]
    assert len(losses["plain"]) == 4
    assert losses["deepspeed"] == losses["torchrun"] == losses["plain"]


def test_a_failing_rank_ends_all(corpus: Path, tmp_path: Path) -> None:
    marker = f"output={tmp_path}"
    script = str(ROOT / "tests" / "launcher" / "failing_train.py")
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", os.devnull, "--num_gpus", "2",
               "--master_port", "29533", script, *SMALL, f"data.path={corpus}", marker]  # fmt: skip
    since = time.monotonic()
    result = run(command)
    assert result.returncode != 0
    assert "the planted fault" in result.stderr
    assert time.monotonic() - since < 90
    assert left_over(marker) == []


def test_a_wrong_number_of_processes_is_refused(corpus: Path, tmp_path: Path) -> None:
    train = str(ROOT / "launcher" / "train.py")
    result = run([sys.executable, train, *SMALL, f"data.path={corpus}", f"output={tmp_path}"])
    assert result.returncode == 2
    assert "1 processes were started, but the layout needs pipe 2 x tensor 1 x data 1 = 2" in result.stderr
    assert "Traceback" not in result.stderr
