"""`megachar plot`: draw the pictures of a run, or of all runs of a sweep, anew, also while it trains."""

from pathlib import Path
from typing import Annotated

import typer

from megachar.base.errors import DataError
from megachar.cli.shared.options import Format
from megachar.runs.axes import AxisName
from megachar.runs.folder import RunFolder
from megachar.runs.plots import plot_run
from megachar.runs.records import read_records
from megachar.runs.sweep_folder import find_runs

Over = Annotated[
    AxisName, typer.Option("--x", help="What losses are drawn over; all but steps need records of this version.")
]


def plot(
    run: Annotated[Path, typer.Argument(help="A run folder such as runs/small, or the folder of a sweep.")],
    x: Over = "step",
    picture_format: Format = "png",
) -> None:
    """Draw the loss curves and the picture of the layers' losses from a run's metrics."""
    folders = [RunFolder(path) for path in find_runs([run])]
    for folder in folders:
        folder.load_experiment()
    for folder in folders:
        if (remark := read_records(folder, ["train", "validation"]).remark(folder)) is not None:
            typer.echo(remark, err=True)
        paths = plot_run(folder, picture_format, x)
        missing = f"{folder.metrics_file} holds no training record yet"
        if not paths and len(folders) == 1:
            raise DataError(f"{missing}; wait for training.log_interval steps")
        if not paths:
            typer.echo(f"left out: {missing}", err=True)
        for path in paths:
            typer.echo(path)
