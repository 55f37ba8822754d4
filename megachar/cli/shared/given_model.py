"""A model that a command was given: checked before torch is imported, which takes seconds."""

from pathlib import Path

import typer

from megachar.runs.checkpoints.sources import check_source


def check_model(source: Path, step: int | None = None) -> None:
    """See that a run folder, a checkpoint or an exported file is whole, and say which newer checkpoints are not.

    Raises as `check_source`.
    """
    for problem in check_source(source, step):
        typer.echo(f"an older checkpoint is taken: {problem}", err=True)
