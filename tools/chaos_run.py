"""The runs that tools/chaos.py disturbs: of a tiny model over four processes on this machine."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import psutil

from megachar.base.files import json_text
from megachar.runs.folder import RunFolder
from megachar.runs.metrics import read_metrics
from megachar.runs.records import MEASURED, START

FAULTY_TRAIN = Path(__file__).with_name("faulty_train.py")
LAUNCH = f"""
from functools import partial
from pathlib import Path
from megachar.cli import hosts, main
from megachar.launching import plan
plan.TRAIN_SCRIPT = Path({str(FAULTY_TRAIN)!r})
hosts.LaunchPlan = partial(plan.LaunchPlan, script=plan.TRAIN_SCRIPT)
main()
"""
TOTAL_STEPS = 24
SETTINGS = ["quickstart", "device=cpu", "model.num_layers=4", "model.width=32", "model.num_heads=2",
            "model.local_offsets=[]", "model.context=64", "model.dropout=0.1", "batch.micro_size=4",
            "batch.global_size=16", "schedule.warmup_steps=1", f"training.total_steps={TOTAL_STEPS}",
            "training.log_interval=1", "training.validation_windows=16", "training.validation_interval=5",
            "guard.max_consecutive=2"]  # fmt: skip
Layout = Literal["pipe 4", "pipe 2 x data 2", "data 4", "pipe 2 x tensor 2"]
LAYOUTS: dict[Layout, tuple[int, int, int]] = {
    "pipe 4": (4, 1, 1),
    "pipe 2 x data 2": (2, 1, 2),
    "data 4": (1, 1, 4),
    "pipe 2 x tensor 2": (2, 2, 1),
}
"""Name -> pipe, tensor, data."""
LAUNCHER = "megachar.launching.local"
END_SECONDS = 120.0
"""Nothing here takes longer."""
FIGURES = ("step", "bits_per_character", "layers", "gradient_norm", "learning_rate")
"""What a record must say again, bit by bit; the others are times and what follows from them."""


class Run:
    """A run and its processes, which are known by the run folder in their command lines."""

    def __init__(self, root: Path, name: str, layout: Layout, *settings: str) -> None:
        self.folder = RunFolder(root / "runs" / name)
        self.bad_steps = root / f"{name}.bad"
        """A file with the number of a rank makes bad steps (`faulty_train`)."""
        pipe, tensor, data = LAYOUTS[layout]
        self._arguments = [*SETTINGS, f"data.path={root / 'corpus'}", f"output={root / 'runs'}", f"name={name}",
                           f"parallel.pipe={pipe}", f"parallel.tensor={tensor}", f"parallel.data={data}",
                           *settings]  # fmt: skip
        self._log = root / f"{name}.log"

    def start(self, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        """`megachar launch`, going on with the run if it has begun."""
        resume = ["--resume"] if self.folder.experiment_file.exists() else []
        command = [sys.executable, "-c", LAUNCH, "launch", *self._arguments, *resume, *options]
        variables = {"OMP_NUM_THREADS": "1", "MEGACHAR_BAD_STEPS": str(self.bad_steps), **environment}
        with self._log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                    env={**os.environ, **variables})  # fmt: skip

    def processes(self) -> Iterator[tuple[str, psutil.Process]]:
        """All of them, by what they are."""
        marks = (f"{self.folder.path}/", f"name={self.folder.path.name}")
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                command = process.cmdline()
                if process.status() == psutil.STATUS_ZOMBIE or not any(
                    mark in word for word in command for mark in marks
                ):
                    continue
                if LAUNCHER not in command:
                    yield "supervisor", process
                else:  # the ranks are forks of it, with a name of their own
                    yield process.name() if process.name().startswith("rank ") else "launcher", process

    def find(self, kind: str) -> psutil.Process | None:
        """One of them."""
        return next((process for name, process in self.processes() if name == kind), None)

    def wait_until_gone(self) -> float:
        """The time at which the last process was gone."""
        until = time.monotonic() + END_SECONDS
        while left := list(self.processes()):
            if time.monotonic() > until:
                raise TimeoutError(f"still there: {[name for name, _ in left]}; see {self._log}")
            time.sleep(0.02)
        return time.time()

    @contextmanager
    def nothing_left(self) -> Iterator[None]:
        """Kill what is left of it afterwards, however the block ends."""
        try:
            yield
        finally:
            for _, process in self.processes():
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    def steps(self) -> int:
        """Steps in its metrics."""
        return max((record["step"] for record in read_metrics(self.folder, "train")), default=0)

    def saving(self) -> bool:
        """Whether a checkpoint is being written."""
        return any(self.folder.checkpoints.glob(".*"))

    def starts(self) -> int:
        """How often its ranks were started."""
        return len(read_lines(self.folder.launch / "history.jsonl"))

    def weights_hash(self) -> str:
        """sha256 of the final weights."""
        final = sorted(self.folder.checkpoints.glob(f"step-{TOTAL_STEPS:08d}*"))[-1]
        digest = hashlib.sha256()
        for path in sorted((final / "weights").glob("*.safetensors")):
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()

    def figures(self) -> list[dict[str, Any]]:
        """What its metrics say at last, of every step and every validation."""
        return [{name: record.get(name) for name in ("kind", *FIGURES)} for kind in MEASURED
                for record in read_metrics(self.folder, kind)]  # fmt: skip

    def is_written_once(self) -> bool:
        """Whether the processes that trained, one after the other, each recorded their steps in order, none twice."""
        at = dict.fromkeys(MEASURED, 0)
        for line in self.folder.metrics_file.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # where one was killed within a line
                record = json.loads(line)
                kind, step = record["kind"], record["step"]
                if kind == START:
                    at = dict.fromkeys(MEASURED, step)
                elif kind in MEASURED:
                    if step <= at[kind] or (kind == "train" and step != at[kind] + 1):
                        return False
                    at[kind] = step
        return True


def check(holds: bool, otherwise: str) -> None:
    """Stop with a message."""
    if not holds:
        raise SystemExit(otherwise)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines; none where it does not exist."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Add a record."""
    with path.open("a") as file:
        file.write(json_text(record) + "\n")
