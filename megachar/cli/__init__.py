"""The `megachar` command: one thin module per subcommand, none of which imports torch before it needs it."""

import sys
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated

import typer
from rich.console import Console

from megachar.cli.lazy import LazyGroup
from megachar.errors import MegacharError

app = typer.Typer(
    cls=LazyGroup, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"megachar {version('megachar')}")
        raise typer.Exit


@app.callback()
def megachar(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version, and stop.")
    ] = False,
) -> None:
    """Train, evaluate and sample very deep byte- and character-level transformers."""


def main() -> None:
    """Run the command line; an error of the user's making is one message and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name that the terminal cannot show must not end a command
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except MegacharError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"{type(error).__name__}: {error}", style="red",
                                                                    markup=False)  # fmt: skip
        sys.exit(2)
