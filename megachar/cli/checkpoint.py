"""`megachar checkpoint`: look at checkpoints, compare them with their hashes, take them out into one file and back."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Column, Table
from rich.text import Text

from megachar.base.errors import CheckpointError, ConfigError
from megachar.base.files import shown
from megachar.base.tables import print_table
from megachar.cli.lazy import make_group
from megachar.cli.shared.given_model import check_model
from megachar.cli.shared.options import Step
from megachar.families.counting import describe_model
from megachar.runs.checkpoints.format import TrainingState, checkpoint_folders, list_checkpoints, read_checkpoint
from megachar.runs.checkpoints.retention import best_of
from megachar.runs.checkpoints.single_file import problem_of, read_card
from megachar.runs.checkpoints.sources import (
    check_checkpoint,
    check_file,
    find_source,
    is_checkpoint,
    load_settings,
    refuse_step,
)
from megachar.runs.checkpoints.tensors import OPTIMIZER_PREFIX, STREAMS_PREFIX, Shapes, checkpoint_shapes, tensor_shapes
from megachar.runs.checkpoints.vocabularies import carried_vocabulary
from megachar.runs.folder import RunFolder, runs_inside

app = make_group("Inspect, verify, export and import checkpoints.")

Source = Annotated[
    Path, typer.Argument(help="Folder of a run such as runs/small, of a checkpoint or of a sweep, or an exported file.")
]

WORDS = {
    "skipped_batches": "batches skipped", "consecutive": "bad steps in a row", "last_bad": "last bad step",
    "lowest_validation": "lowest validation", "since_lowest": "validations since", "windows": "windows read",
    "cur_scale": "loss scale", "cur_iter": "steps scaled", "last_overflow_iter": "last overflow",
    "cur_hysteresis": "overflows until lowered",
}  # fmt: skip
"""What a checkpoint calls a figure -> what people do."""
LAYOUT_NOTE = "none: whole fp32 tensors, which resume on any pipe x tensor x data x ZeRO that fits the model"


@app.command()
def inspect(source: Source, step: Step = None) -> None:
    """What is in a checkpoint, and which ones a run has, or each run of a sweep."""
    console = Console(highlight=False)
    if runs := _runs_of_sweep(source, step):
        _print_runs(runs, console)
        return
    experiment = load_settings(source)
    check_model(source, step)
    state: TrainingState
    if source.is_file():
        state, shapes = read_card(source), tensor_shapes(source)
    else:
        checkpoint = find_source(source, step)
        if not is_checkpoint(source):
            _print_runs([RunFolder(source)], console)
        source, state, shapes = checkpoint.path, checkpoint.manifest, checkpoint_shapes(checkpoint)
    model = experiment.model
    rows = [
        ("experiment", experiment.name),
        ("step", f"{state.step:,} of {experiment.training.total_steps:,} (optimizer: {state.optimizer_steps:,})"),
        ("model", f"{describe_model(model)}, {model.vocabulary_size} symbols"),
        ("weights", _describe(shapes, lambda name: not name.startswith((OPTIMIZER_PREFIX, STREAMS_PREFIX)))),
        ("optimizer", _describe(shapes, lambda name: name.startswith(OPTIMIZER_PREFIX))),
        ("optimizer is", experiment.optimizer.name),
        ("trained in", state.precision or "not recorded"),
        ("validation", _bits(state)),
        ("vocabulary", str(state.vocabulary or "not recorded: that of the data")),
        ("data", f"{state.data.description} ({state.data.fingerprint})" if state.data else "not recorded"),
        *((WORDS.get(name, name), f"{value:,.6g}" if isinstance(value, float) else str(value))
          for name, value in (*state.loss_scaler.items(), *state.loop_state.items())
          if not isinstance(value, list)),  # the guard's memory of a hundred steps
        ("layout", LAYOUT_NOTE),
    ]  # fmt: skip
    console.print(str(source), style="bold", soft_wrap=True, markup=False)
    table = Table(Column(no_wrap=True), "", show_header=False)
    for name, value in rows:
        table.add_row(name, Text(value))
    print_table(table, console)


@app.command()
def verify(source: Source, step: Step = None) -> None:
    """Compare every file with its sha256: of all checkpoints of a run or of a sweep, or of the one that is named."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    problems: list[str] = []
    for path in _sources(source, step):
        found = _problems(path)
        console.print(f"{path}: {'damaged' if found else 'whole'}")
        problems += found
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise CheckpointError(f"missing or damaged files ({len(problems)}):\n{listed}")


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="Run folder such as runs/small, or a checkpoint's.")],
    output: Annotated[Path, typer.Option(help="File to write, such as small.safetensors; its JSON goes beside it.")],
    everything: Annotated[
        bool, typer.Option("--all", help="Auxiliary classifiers and optimizer state as well, to train on.")
    ] = False,
    step: Step = None,
) -> None:
    """Write a checkpoint as one safetensors file: the weights for inference, or all that training needs."""
    if source.is_file():
        raise ConfigError(f"{source} is a file already; name a run folder or a checkpoint's folder")
    check_model(source, step)
    checkpoint = find_source(source, step)

    from megachar.runs.checkpoints.exporting import export_checkpoint

    export_checkpoint(checkpoint, output, "all" if everything else "inference")
    typer.echo(f"saved {output} ({decimal(output.stat().st_size)}), step {checkpoint.step:,}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A file of `megachar checkpoint export --all`.")],
    run: Annotated[Path, typer.Argument(help="Run folder to put it into; made where there is none.")],
) -> None:
    """Make a checkpoint of an exported file, from which training resumes."""
    from megachar.runs.checkpoints.exporting import import_file

    checkpoint = import_file(file, run)
    typer.echo(f"saved {checkpoint.path}")
    typer.echo(f"resume with: megachar launch {RunFolder(run).experiment_file} --resume")


def _runs_of_sweep(source: Path, step: int | None) -> list[RunFolder]:
    """The runs of the folder of a sweep; none where `source` is something else. ConfigError with a `step`."""
    if source.is_file() or is_checkpoint(source) or RunFolder(source).experiment_file.is_file():
        return []
    runs = [RunFolder(path) for path in runs_inside(source)]
    if runs and step is not None:
        raise ConfigError(
            f"--step {step}: {source} is a folder of runs; leave --step out, or name one, such as {runs[0].path}"
        )
    return runs


def _print_runs(runs: Sequence[RunFolder], console: Console) -> None:
    """One line per checkpoint; of several runs, each with its run's name. What is damaged is told on stderr."""
    several = len(runs) > 1
    columns = ("checkpoint", Column("validation", justify="right"), Column("size", justify="right"), "")
    table = Table(*(("run", *columns) if several else columns))
    for run in runs:
        name = (Text(shown(run.path.name)),) if several else ()
        best = best_of(list_checkpoints(run))
        for path in checkpoint_folders(run):
            try:
                checkpoint = read_checkpoint(path)
            except CheckpointError as error:
                typer.echo(f"left out: {error}", err=True)
                table.add_row(*name, path.name, "-", "-", "damaged")
                continue
            kept = "best" if best is not None and path == best.path else ""
            table.add_row(*name, path.name, _bits(checkpoint.manifest), decimal(checkpoint.num_bytes), kept)
        if not checkpoint_folders(run):
            table.add_row(*name, "none yet", "-", "-", "")
    print_table(table, console)


def _sources(source: Path, step: int | None) -> list[Path]:
    """The exported file or the checkpoints to verify, also those whose manifests are damaged."""
    if source.is_file():
        refuse_step(source, step)
        return [source]
    run = RunFolder(source)
    if runs := _runs_of_sweep(source, step):
        found = [path for run in runs for path in checkpoint_folders(run)]
        if not found:
            raise CheckpointError(f"no run in {source} has a checkpoint yet; train until training.checkpoint_interval")
        return found
    if step is None and not is_checkpoint(source) and run.experiment_file.is_file() and checkpoint_folders(run):
        return checkpoint_folders(run)
    return [find_source(source, step).path]


def _problems(path: Path) -> list[str]:
    """What is wrong with a checkpoint's folder or an exported file."""
    from megachar.runs.checkpoints.reading import load_model, problems_of

    try:
        if path.is_file():
            if problem := problem_of(path):
                return [problem]
            check_file(path)
            load_model(path)
        else:
            checkpoint = read_checkpoint(path)
            if problems := problems_of(checkpoint):
                return problems
            check_checkpoint(checkpoint)
        carried_vocabulary(path)
    except CheckpointError as error:
        return [str(error)]
    return []


def _describe(shapes: Shapes, belongs: Callable[[str], bool]) -> str:
    """How much those tensors are whose names belong."""
    sizes = [math.prod(shape) for name, shape in shapes.items() if belongs(name)]
    return f"{sum(sizes):,} numbers in {len(sizes):,} tensors, {decimal(4 * sum(sizes))}" if sizes else "none"


def _bits(state: TrainingState) -> str:
    bits = state.validation_bits
    return "-" if bits is None else f"{bits:.4f} bits per {state.unit}"
