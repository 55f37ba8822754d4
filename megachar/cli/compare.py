"""`megachar compare SWEEP_FOLDER`: what the runs of a sweep have come to. `megachar sweep` ends with the same table."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from megachar.base.bars import format_duration
from megachar.base.errors import ConfigError
from megachar.base.files import reason, shown
from megachar.base.tables import fits, print_table
from megachar.runs.folder import RunFolder
from megachar.runs.sweep_folder import find_runs, plan_file
from megachar.sweeps.results import End, Result, Results, read_results, results_file


def compare(folder: Annotated[Path, typer.Argument(help="The folder of a sweep, such as runs/ablation.")]) -> None:
    """Table of the runs of a sweep: what differs, best validation, characters, time, state. CSV as well."""
    if RunFolder(folder).experiment_file.is_file():
        raise ConfigError(f"{folder} is a run folder; name the folder of a sweep, such as {folder.resolve().parent}")
    if not plan_file(folder).is_file():
        find_runs([folder])
    show_results(read_results(folder), folder, Console(highlight=False))


def show_results(results: Results, folder: Path, console: Console) -> None:
    """Print the table, then write it into the sweep's folder, where that is possible: a full disk costs no figures."""
    table = _table(results, False)
    narrow = _table(results, True)
    print_table(narrow if fits(narrow, console) and not fits(table, console) else table, console)
    for remark in results.remarks:
        typer.echo(f"megachar: {remark}", err=True)
    try:
        results.write(results_file(folder))
    except OSError as error:
        typer.echo(f"megachar: {results_file(folder)} is not written: {reason(error)}", err=True)
    else:
        typer.echo(f"saved {results_file(folder)}")


def _table(results: Results, narrow: bool) -> Table:
    """The table; where it has to be `narrow`, what differs stands below the run's name."""
    units = sorted({row.unit for row in results.rows if row.unit is not None})
    per = f"bits per {units[0]}" if len(units) == 1 else "bits"
    names = ("run, and what differs",) if narrow else ("run", "what differs")
    figures = (f"best validation ({per})", "characters", "time")
    table = Table(*names, *(Column(Text(name), justify="right") for name in figures), "state")
    for row in results.rows:
        run, own = shown(row.run), " ".join(row.own)
        bits = "-" if row.bits is None else f"{row.bits:.4f}" + (f" per {row.unit}" if len(units) > 1 else "")
        outcome = row.outcome
        amounts = ("-", "-") if outcome is None else (f"{outcome.characters:,}", format_duration(outcome.seconds))
        first = (Text(f"{run}\n{own}".rstrip()),) if narrow else (Text(run), Text(own))
        table.add_row(*first, Text(bits), *amounts, _state(row))
    return table


def _state(row: Result) -> str:
    """How the run stands; of one that is not at its end, also where."""
    if row.outcome is None or row.end is End.FINISHED:
        return row.end.value
    return f"{row.end.value}, step {row.outcome.step:,}"
