"""What the commands of `megachar analyze` share: where results go, and how they are shown."""

from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from megachar.analysis.result import Analysis, result_folder
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
    table = Table(title=Text(analysis.title, style="italic"))
    for column, cells in zip(analysis.table.columns, zip(*analysis.table.rows, strict=True), strict=True):
        has_words = any(isinstance(cell, str) for cell in cells)
        table.add_column(Text(column.name), justify="left" if has_words else "right", overflow="fold")
    for row in analysis.table.texts():
        table.add_row(*(Text(cell) for cell in row))
    console = Console(highlight=False, markup=False)
    print_table(table, console)
    console.print(f"How to read it: {analysis.how_to_read}")
    saved = analysis.save(folder, picture_format)
    pictures = dict.fromkeys((saved.figure, saved.figure.with_suffix(f".{picture_format}")))
    for path in (saved.csv, *pictures, saved.json):
        typer.echo(f"saved {path}")
