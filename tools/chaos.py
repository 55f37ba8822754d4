"""Kill real runs and see what becomes of them.

    python tools/chaos.py runs --runs 40     # kill -9 at random moments, resume to the end: the same weights?
    python tools/chaos.py times --tries 10   # seconds from a rank's death, error or hang to the last process gone

Runs are of a tiny model over four processes on this machine, started by `megachar launch`. With --folder, results are
kept there, and the same command goes on where it was stopped.
"""

import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import psutil
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from megachar.data.preprocess import cut_by_position, prepare_corpus
from megachar.data.vocabulary import ByteVocabulary
from megachar.exit_codes import ExitCode
from megachar.files import json_text
from megachar.training.metrics import read_metrics
from megachar.training.run_folder import RunFolder
from megachar.watch import launchers

app = typer.Typer(add_completion=False, no_args_is_help=True)

FAULTY_TRAIN = Path(__file__).with_name("faulty_train.py")
LAUNCH = f"""
from functools import partial
from pathlib import Path
from megachar.cli import launch, main
from megachar.launching import plan
plan.TRAIN_SCRIPT = Path({str(FAULTY_TRAIN)!r})
launch.LaunchPlan = partial(plan.LaunchPlan, script=plan.TRAIN_SCRIPT)
main()
"""
TOTAL_STEPS = 24
SETTINGS = ["quickstart", "device=cpu", "model.num_layers=4", "model.width=32", "model.num_heads=2",
            "model.local_offsets=[]", "model.context=64", "model.dropout=0.1", "batch.micro_size=4",
            "batch.global_size=16", "schedule.warmup_steps=1", f"training.total_steps={TOTAL_STEPS}",
            "training.log_interval=1", "training.validation_windows=16"]  # fmt: skip
Layout = Literal["pipe 4", "pipe 2 x data 2", "data 4", "pipe 2 x tensor 2"]
LAYOUTS: dict[Layout, tuple[int, int, int]] = {
    "pipe 4": (4, 1, 1),
    "pipe 2 x data 2": (2, 1, 2),
    "data 4": (1, 1, 4),
    "pipe 2 x tensor 2": (2, 2, 1),
}
"""Name -> pipe, tensor, data."""
LAUNCHER = "megachar.launching.local"
VICTIMS = ("rank 0", "rank 1", "rank 2", "rank 3", "launcher", "launcher", "supervisor", "supervisor")
END_SECONDS = 120.0
"""Nothing here takes longer."""

Folder = Annotated[Path | None, typer.Option(help="Where runs and results are kept; default: nowhere.")]


class Run:
    """A run and its processes, which are known by the run folder in their command lines."""

    def __init__(self, root: Path, name: str, layout: Layout, *settings: str) -> None:
        self.folder = RunFolder(root / "runs" / name)
        pipe, tensor, data = LAYOUTS[layout]
        self._arguments = [*SETTINGS, f"data.path={root / 'corpus'}", f"output={root / 'runs'}", f"name={name}",
                           f"parallel.pipe={pipe}", f"parallel.tensor={tensor}", f"parallel.data={data}",
                           *settings]  # fmt: skip
        self._log = root / f"{name}.log"

    def start(self, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        """`megachar launch`, going on with the run if it has begun."""
        resume = ["--resume"] if self.folder.experiment_file.exists() else []
        command = [sys.executable, "-c", LAUNCH, "launch", *self._arguments, *resume, *options]
        with self._log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                    env={**os.environ, "OMP_NUM_THREADS": "1", **environment})  # fmt: skip

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

    def weights_hash(self) -> str:
        """sha256 of the final weights."""
        final = sorted(self.folder.checkpoints.glob(f"step-{TOTAL_STEPS:08d}*"))[-1]
        digest = hashlib.sha256()
        for path in sorted((final / "weights").glob("*.safetensors")):
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Kill:
    """One run of `runs`."""

    number: int
    layout: str
    victim: str
    when: str
    continued_by: str
    """The supervisor, or this program in its place."""
    gone_seconds: float | None
    """From a supervisor's death to the last process gone."""
    starts: int
    same: bool


@app.command()
def runs(
    runs: Annotated[int, typer.Option(min=1, help="runs to kill")] = 40,
    folder: Folder = None,
    seed: Annotated[int, typer.Option(help="of layouts, victims and moments")] = 1,
    limit: Annotated[float, typer.Option(help="begin no further run after as many seconds; 0: no limit")] = 0,
    layout: Annotated[Layout | None, typer.Option(help="default: all in turn")] = None,
) -> None:
    """Kill -9 a random process of each run at a random moment of training or saving; compare the final weights."""
    began = time.monotonic()
    with kept(folder) as root:
        results = [Kill(**record) for record in read_lines(root / "kills.jsonl")]
        references: dict[Layout, Run] = {}
        for number in track(range(runs), description="runs"):
            if number < len(results) or (limit and time.monotonic() - began > limit):
                continue
            name = layout or list(LAYOUTS)[number % len(LAYOUTS)]
            if name not in references:
                references[name] = reference_run(root, name)
            chance, kill = random.Random(seed * 1000 + number), None
            while kill is None:  # the process had ended a moment before
                kill = kill_one(root, number, name, references[name], chance)
            results.append(kill)
            append_line(root / "kills.jsonl", asdict(kill))
    table = Table("run", "layout", "killed", "when", "continued by", "starts", "gone after", "weights")
    for kill in results:
        gone = "" if kill.gone_seconds is None else f"{kill.gone_seconds:.1f} s"
        table.add_row(str(kill.number), kill.layout, kill.victim, kill.when, kill.continued_by, str(kill.starts), gone,
                      "the same" if kill.same else "DIFFERENT")  # fmt: skip
    same = sum(kill.same for kill in results)
    Console().print(table, f"{same} of {len(results)} runs ended with the undisturbed run's weights, bit by bit")
    raise typer.Exit(same < len(results))


def reference_run(root: Path, layout: Layout) -> Run:
    """The undisturbed run of a layout."""
    run = Run(root, f"undisturbed-{layout.replace(' ', '')}", layout, "training.checkpoint_interval=2")
    if run.steps() < TOTAL_STEPS:
        check(run.start().wait() == 0, f"{run.folder.path} failed undisturbed")
    return run


def kill_one(root: Path, number: int, layout: Layout, reference: Run, chance: random.Random) -> Kill | None:
    """Start a run, kill one of its processes, and see it to its end; None where the process had ended by itself."""
    run = Run(root, f"run-{number}-{chance.randrange(1000)}", layout, "training.checkpoint_interval=2")
    victim, saving = chance.choice(VICTIMS), chance.random() < 0.5
    target, delay = chance.randrange(1, TOTAL_STEPS - 3), chance.random()
    with run.nothing_left():
        started = run.start("--max-restarts", "3")
        process: psutil.Process | None = None
        while run.steps() < target or (saving and not run.saving() and run.steps() < TOTAL_STEPS - 1):
            check(started.poll() is None, f"{run.folder.path} ended before it was killed")
            process = process or (run.find(victim) if run.steps() else None)
            time.sleep(0.001)
        time.sleep(delay * (0.02 if saving else 0.2))
        process = process or run.find(victim)
        when = f"step {run.steps()}" + (", saving" if run.saving() else "")
        if process is None or launchers.is_gone(process):
            return None
        process.kill()
        killed, gone, continued_by = time.time(), None, "supervisor"
        status = started.wait(END_SECONDS)
        if victim == "supervisor":
            gone, continued_by = run.wait_until_gone() - killed, "--resume"
            status = run.start("--max-restarts", "3").wait(END_SECONDS)
        check(status == 0, f"{run.folder.path} did not reach its end: status {status}")
        run.wait_until_gone()
    starts = len(read_lines(run.folder.launch / "history.jsonl"))
    same = run.weights_hash() == reference.weights_hash()
    return Kill(number, layout, victim, when, continued_by, gone, starts, same)


FAULTS = {"death": "die", "error": "raise", "stopped": "stop", "asleep": "sleep", "holds the lock": "hold"}


@dataclass(frozen=True)
class End:
    """One try of `times`."""

    fault: str
    ranks_seconds: float
    """From the fault to the last rank gone."""
    all_seconds: float
    """To the last process of launchers and supervisor gone."""


@app.command()
def times(
    tries: Annotated[int, typer.Option(min=1, help="of every fault")] = 10,
    folder: Folder = None,
    heartbeat: Annotated[float, typer.Option(help="fault_tolerance.heartbeat_timeout_seconds")] = 5,
    progress: Annotated[float, typer.Option(help="fault_tolerance.progress_timeout_seconds")] = 20,
    limit: Annotated[float, typer.Option(help="begin no further try after as many seconds; 0: no limit")] = 0,
) -> None:
    """Plant a fault in a random rank and measure until all ranks, and all processes, are gone."""
    began = time.monotonic()
    with kept(folder) as root:
        results = [End(**record) for record in read_lines(root / "ends.jsonl")]
        faults = [fault for _ in range(tries) for fault in FAULTS]
        for number in track(range(len(faults)), description="tries"):
            if number < len(results) or (limit and time.monotonic() - began > limit):
                continue
            settings = (f"fault_tolerance.heartbeat_timeout_seconds={heartbeat}",
                        f"fault_tolerance.progress_timeout_seconds={progress}")  # fmt: skip
            results.append(end_of(root, f"try-{number}", faults[number], *settings))
            append_line(root / "ends.jsonl", asdict(results[-1]))
    table = Table("fault", "tries", "last rank gone: median", "most", "last process gone: median", "most")
    for fault in FAULTS:
        ranks = [end.ranks_seconds for end in results if end.fault == fault]
        everyone = [end.all_seconds for end in results if end.fault == fault]
        cells = (f"{function(values):.1f} s" for values in (ranks, everyone) if values
                 for function in (statistics.median, max))  # fmt: skip
        table.add_row(fault, str(len(ranks)), *cells)
    Console().print(table, f"heartbeat timeout {heartbeat:g} s, progress timeout {progress:g} s")


def end_of(root: Path, name: str, fault: str, *settings: str) -> End:
    """Plant a fault and wait for the end."""
    run = Run(root, name, random.choice(list(LAYOUTS)), *settings)
    rank, step = random.randrange(4), random.randrange(1, 9)
    log, until = run.folder.logs / f"rank-{rank:04d}.log", time.monotonic() + END_SECONDS
    printed = "planted fault at "
    with run.nothing_left():
        started = run.start(MEGACHAR_FAULT=f"{FAULTS[fault]}:{rank}:{step}")
        while not (log.exists() and printed in log.read_text(errors="replace")):
            check(started.poll() is None and time.monotonic() < until, f"{run.folder.path}: the fault did not happen")
            time.sleep(0.02)
        planted = float(log.read_text(errors="replace").partition(printed)[2].split()[0])
        while any(kind.startswith("rank") for kind, _ in run.processes()):
            check(time.monotonic() < until, f"{run.folder.path}: ranks are left")
            time.sleep(0.02)
        ranks_gone = time.time()
        check(started.wait(END_SECONDS) == ExitCode.FAILED, f"{run.folder.path} did not fail")
        return End(fault, ranks_gone - planted, run.wait_until_gone() - planted)


def check(holds: bool, otherwise: str) -> None:
    """Stop with a message."""
    if not holds:
        raise SystemExit(otherwise)


@contextmanager
def kept(folder: Path | None) -> Iterator[Path]:
    """A folder with a corpus of random text in it; a temporary one where none is named."""
    with tempfile.TemporaryDirectory() as temporary:
        root = (folder or Path(temporary)).absolute()
        root.mkdir(parents=True, exist_ok=True)
        if not (root / "corpus").exists():
            text = np.random.default_rng(1).integers(97, 123, 8000, dtype=np.uint8)
            (root / "text").write_bytes(text.tobytes())
            prepare_corpus(cut_by_position(root / "text"), root / "corpus", ByteVocabulary())
        yield root


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines; none where it does not exist."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Add a record."""
    with path.open("a") as file:
        file.write(json_text(record) + "\n")


if __name__ == "__main__":
    app()
