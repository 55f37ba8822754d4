"""Disturb real runs and see what becomes of them.

    python tools/chaos.py runs --runs 40     # blows at random moments, then --resume: the same weights and metrics?
    python tools/chaos.py times --tries 10   # seconds from a rank's death, error or hang to the last process gone

Runs are of a tiny model over four processes on this machine, started by `megachar launch`. With --folder, results are
kept there, and the same command goes on where it was stopped. The blows are `kill -9` of any process, the signals by
which schedulers ask a run to leave, a full disk (for root only, who may mount one) and bad steps in a row until the
guard stops the run. The row begins with the step after a checkpoint and is over when the run is resumed, so that no
batch is left out that the undisturbed run is trained on.
"""

import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, get_args

import numpy as np
import typer
from chaos_blows import Kind, disturb, draw_blows, small_disk, take_own_mounts
from chaos_run import END_SECONDS, LAYOUTS, TOTAL_STEPS, Layout, Run, append_line, check, read_lines
from rich.console import Console
from rich.progress import track
from rich.table import Table

from megachar.base.exit_codes import ExitCode
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.vocabulary import ByteVocabulary

app = typer.Typer(add_completion=False, no_args_is_help=True)

Folder = Annotated[Path | None, typer.Option(help="Where runs and results are kept; default: nowhere.")]


@dataclass(frozen=True)
class Disturbed:
    """One run of `runs`."""

    number: int
    layout: Layout
    kinds: list[Kind]
    """Of the blows that struck."""
    blows: list[str]
    """These blows, and when they came."""
    statuses: list[int]
    """Of `megachar launch`, start by start."""
    gone_seconds: float | None
    """From a supervisor's death to the last process gone."""
    starts: int
    """Of the ranks, by whatever started them again."""
    same_weights: bool
    same_metrics: bool


@app.command()
def runs(
    runs: Annotated[int, typer.Option(min=1, help="runs to disturb")] = 40,
    folder: Folder = None,
    seed: Annotated[int, typer.Option(help="of layouts, blows and moments")] = 1,
    limit: Annotated[float, typer.Option(help="begin no further run after as many seconds; 0: no limit")] = 0,
    layout: Annotated[Layout | None, typer.Option(help="default: all in turn")] = None,
) -> None:
    """Disturb each run at random moments of starting, training and saving; compare the final weights and metrics."""
    began = time.monotonic()
    kinds: list[Kind] = [kind for kind in get_args(Kind) if kind != "full disk" or take_own_mounts()]
    with kept(folder) as root:
        results = [Disturbed(**record) for record in read_lines(root / "disturbed.jsonl")]
        references: dict[Layout, Run] = {}
        for number in track(range(runs), description="runs"):
            if number < len(results) or (limit and time.monotonic() - began > limit):
                continue
            name = layout or list(LAYOUTS)[number % len(LAYOUTS)]
            if name not in references:
                references[name] = reference_run(root, name)
            chance, done = random.Random(seed * 1000 + number), None
            while done is None:  # the run had ended a moment before
                done = disturbed_run(root, number, references[name], chance, kinds, name)
            results.append(done)
            append_line(root / "disturbed.jsonl", asdict(done))
    show(results, kinds)


def show(results: Sequence[Disturbed], kinds: Sequence[Kind]) -> None:
    """A table of the runs, and their sums; the exit status is 1 where any is another than its undisturbed run."""
    table = Table("run", "layout", "blows", "statuses", "starts", "gone after", "weights", "metrics")
    for done in results:
        gone = "" if done.gone_seconds is None else f"{done.gone_seconds:.1f} s"
        cells = ("the same" if same else "DIFFERENT" for same in (done.same_weights, done.same_metrics))
        table.add_row(str(done.number), done.layout, "\n".join(done.blows), " ".join(map(str, done.statuses)),
                      str(done.starts), gone, *cells)  # fmt: skip
    console, total = Console(), len(results)
    counts = Counter(kind for done in results for kind in done.kinds)
    console.print(table, "blows: " + ", ".join(f"{counts[kind]} {kind}" for kind in kinds), sep="\n")
    if "full disk" not in kinds:
        console.print("no full disks: that takes root, who may mount one")
    for what, same in (("weights", sum(done.same_weights for done in results)),
                       ("metrics", sum(done.same_metrics for done in results))):  # fmt: skip
        console.print(f"{same} of {total} runs ended with the undisturbed run's {what}, bit by bit")
    raise typer.Exit(not all(done.same_weights and done.same_metrics for done in results))


def reference_run(root: Path, layout: Layout) -> Run:
    """The undisturbed run of a layout."""
    run = Run(root, f"undisturbed-{layout.replace(' ', '')}", layout, "training.checkpoint_interval=2")
    if run.steps() < TOTAL_STEPS:
        check(run.start().wait() == 0, f"{run.folder.path} failed undisturbed")
    return run


def disturbed_run(
    root: Path, number: int, reference: Run, chance: random.Random, kinds: Sequence[Kind], layout: Layout
) -> Disturbed | None:
    """Start a run, disturb it, and see it to its end; None where it was there before any blow struck."""
    run = Run(root, f"run-{number}-{chance.randrange(1000)}", layout, "training.checkpoint_interval=2")
    blows = draw_blows(chance, kinds, kinds[number // len(LAYOUTS) % len(kinds)])
    full = any(blow.kind == "full disk" for blow in blows)
    with small_disk(run.folder.path) if full else nullcontext(), run.nothing_left():
        story = disturb(run, blows)
        if not story.blows:
            return None
        same_weights = run.weights_hash() == reference.weights_hash()
        same_metrics = run.figures() == reference.figures() and run.is_written_once()
        return Disturbed(number, layout, story.kinds, story.blows, story.statuses,
                         story.gone_seconds, run.starts(), same_weights, same_metrics)  # fmt: skip


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


if __name__ == "__main__":
    app()
