"""`megachar plot`: draw a run's pictures anew, also while it trains."""

from pathlib import Path
from typing import Annotated

import typer

from megachar.cli.pictures import Format
from megachar.errors import DataError
from megachar.training.axes import AxisName

Over = Annotated[
    AxisName, typer.Option("--x", help="What losses are drawn over; all but steps need records of this version.")
]


def plot(
    run: Annotated[Path, typer.Argument(help="a run folder such as runs/small")],
    x: Over = "step",
    picture_format: Format = "png",
) -> None:
    """Draw the loss curves and the picture of the layers' losses from a run's metrics."""
    from megachar.training.run_folder import RunFolder

    folder = RunFolder(run)
    folder.load_experiment()
    from megachar.training.plots import plot_run
    from megachar.training.records import read_records

    if (remark := read_records(folder, []).remark(folder)) is not None:
        typer.echo(remark, err=True)
    paths = plot_run(folder, picture_format, x)
    if not paths:
        raise DataError(f"{folder.metrics_file} holds no training record yet; wait for training.log_interval steps")
    for path in paths:
        typer.echo(path)
