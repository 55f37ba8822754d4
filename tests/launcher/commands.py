"""The commands that the tests of launching start, and what they look at afterwards."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from megachar.runs.folder import RunFolder
from megachar.runs.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[2]
TRAIN = str(ROOT / "launcher" / "train.py")
MEGACHAR = [sys.executable, "-c", "from megachar.cli import main; main()"]
LAUNCH = [*MEGACHAR, "launch"]
# Clipping is off: stages add up the gradient norm in another order than one process does.
SMALL = ["quickstart", "model.num_layers=2", "model.width=32", "model.num_heads=2", "model.local_offsets=[]",
         "training.total_steps=4", "training.log_interval=1", "training.validation_windows=4",
         "schedule.warmup_steps=1", "training.gradient_clipping=0", "device=cpu"]  # fmt: skip
LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def run(
    command: Sequence[str], timeout: float = 120, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command on this machine to its end."""
    variables = {name: value for name, value in os.environ.items() if name not in LAUNCHER_VARIABLES}
    variables |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(environment or {})}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=variables, cwd=ROOT)


def losses(output: Path, name: str) -> list[tuple[int, float]]:
    """(step, bits per character) of a run."""
    records = read_metrics(RunFolder(output / name), "train")
    return [(record["step"], record["bits_per_character"]) for record in records]


def steps_once(folder: RunFolder) -> list[int]:
    """Steps whose losses count. Each process that trained must have recorded its own in order, from where it began."""
    at, steps = 0, list[int]()
    for line in folder.metrics_file.read_text().splitlines():
        with suppress(ValueError):  # where one was killed within a line
            record = json.loads(line)
            if record["kind"] == "start":
                at = record["step"]
                steps = [step for step in steps if step <= at]
            elif record["kind"] == "train":
                assert record["step"] == at + 1, line
                at = record["step"]
                steps.append(at)
    return steps


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
