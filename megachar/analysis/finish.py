"""What the commands of `megachar analyze` share: where results go, and how they are shown."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import typer
from rich.console import Console
from rich.table import Column as Shown
from rich.table import Table
from rich.text import Text

from megachar.analysis.result import Analysis, Cell, result_folder
from megachar.base.pictures import PictureFormat
from megachar.base.tables import print_table
from megachar.cli.shared.groups import option
from megachar.cli.shared.options import Format


@dataclass(frozen=True)
class Saving:
    """Where results go, and how."""

    output: Path | None = option(None, "Folder for the results; default: the folder analyses in that of the first run.")
    picture_format: Format = "png"

    def folder(self, first: Path) -> Path:
        """The folder for the results about a run and others, made before anything is computed; see `result_folder`."""
        return result_folder(first, self.output)


def finish(analysis: Analysis, folder: Path, picture_format: PictureFormat = "png") -> None:
    """Show an analysis on stdout, then save it: a full disk must not cost the figures."""
    columns = zip(analysis.table.columns, zip(*analysis.table.rows, strict=True), strict=True)
    table = Table(
        *(Shown(Text(column.name), justify=_justify(cells), overflow="fold") for column, cells in columns),
        title=Text(analysis.title, style="italic"),
    )
    for row in analysis.table.texts():
        table.add_row(*(Text(cell) for cell in row))
    console = Console(highlight=False, markup=False)
    print_table(table, console)
    console.print(f"How to read it: {analysis.how_to_read}")
    saved = analysis.save(folder, picture_format)
    pictures = dict.fromkeys((saved.figure, saved.figure.with_suffix(f".{picture_format}")))
    for path in (saved.csv, *pictures, saved.json):
        typer.echo(f"saved {path}")


def _justify(cells: tuple[Cell, ...]) -> Literal["left", "right"]:
    return "left" if any(isinstance(cell, str) for cell in cells) else "right"
