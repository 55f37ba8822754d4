"""What is waited for before anything is computed, and how many threads then pay.

    python tools/benchmark_start.py startup small    # from `megachar launch` to its first step
    python tools/benchmark_start.py threads          # from what size of a product on threads pay

The first argument of `startup` is a preset or a YAML file, further ones are overrides.
"""

import itertools
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.vocabulary import ByteVocabulary
from megachar.runs.folder import RunFolder
from megachar.runs.metrics import read_metrics

app = typer.Typer(add_completion=False, no_args_is_help=True)

Source = Annotated[str, typer.Argument(help="a preset or a YAML file")]
Overrides = Annotated[list[str] | None, typer.Argument(help="section.key=value")]
Rounds = Annotated[int, typer.Option(min=1, help="repetitions, of which the median counts")]


@app.command()
def threads(rounds: Rounds = 5) -> None:
    """Microseconds of (rows, n) x (n, 4n) with one thread and with all cores, in turns: the median, and the ratio."""
    import torch

    from megachar.parallel.mesh import available_cores

    table = Table("rows", "n", "million multiplications", "1 thread", f"{available_cores()} threads", "gain")
    for rows, n in itertools.product((1, 32, 1024), (64, 192, 512, 1900)):
        vectors, matrix = torch.randn(rows, n), torch.randn(4 * n, n)
        repeats, spent = max(2, 10**8 // (4 * rows * n * n)), dict[int, list[float]]()
        for number in (1, available_cores()) * rounds:
            torch.set_num_threads(number)
            began = time.perf_counter()
            for _ in range(repeats):
                torch.nn.functional.linear(vectors, matrix)
            spent.setdefault(number, []).append((time.perf_counter() - began) / repeats * 1e6)
        one, many = (statistics.median(spent[number]) for number in (1, available_cores()))
        table.add_row(
            str(rows), str(n), f"{4 * rows * n * n / 1e6:.2f}", f"{one:.0f}", f"{many:.0f}", f"{one / many:.2f}"
        )
    Console().print(table)


@app.command()
def startup(source: Source, overrides: Overrides = None, rounds: Rounds = 5) -> None:
    """Seconds from `megachar launch` to the run's first step, and CPU seconds of all processes to the end of three."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "text").write_bytes(random.Random(1).randbytes(200_000))
        prepare_corpus(cut_by_position(folder / "text"), folder / "corpus", ByteVocabulary())
        found = [_start_once(folder, str(number), [source, *(overrides or [])]) for number in range(rounds)]
    first, cpu = (statistics.median(values) for values in zip(*found, strict=True))
    Console().print(f"first step after {first:.2f} s; {cpu:.2f} CPU seconds for three steps (medians of {rounds})")


def _start_once(folder: Path, name: str, arguments: list[str]) -> tuple[float, float]:
    """Seconds to the first step of a run, and its CPU seconds."""
    settings = [f"data.path={folder / 'corpus'}", f"output={folder}", f"name={name}", "training.log_interval=1",
                "training.total_steps=3", "schedule.warmup_steps=1", "training.validation_windows=4"]  # fmt: skip
    command = [sys.executable, "-c", "from megachar.cli import main; main()", "launch", *arguments, *settings]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not read_metrics(RunFolder(folder / name), "train") and process.poll() is None:
            time.sleep(0.01)
        first = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return first, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    app()
