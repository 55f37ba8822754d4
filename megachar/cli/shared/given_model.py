"""A model that a command was given: checked before torch is imported, which takes seconds, and then loaded."""

from contextlib import AbstractContextManager
from pathlib import Path

import typer
from rich.console import Console

from megachar.base.bars import waiting
from megachar.runs.checkpoints.sources import check_source


def check_model(source: Path, step: int | None = None) -> None:
    """See that a run folder, a checkpoint or an exported file is whole, and say which newer checkpoints are not.

    Raises as `check_source`.
    """
    for problem in check_source(source, step):
        typer.echo(f"an older checkpoint is taken: {problem}", err=True)


def loading(what: str = "torch and the model") -> AbstractContextManager[None]:
    """Around the block that does it: a line that is gone afterwards, on a terminal alone."""
    return waiting(f"loading {what}", Console(stderr=True))
