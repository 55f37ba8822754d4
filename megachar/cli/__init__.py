"""The `megachar` command: one thin module per subcommand, none of which imports torch before it needs it."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from megachar.base.errors import MegacharError
from megachar.base.files import describe
from megachar.cli.lazy import LazyGroup
from megachar.cli.streams import flush_streams, open_streams, say_error

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
    """Run the command line; an error that the user or the machine made is one message and exit status 2."""
    open_streams()
    try:
        try:
            app()
        finally:
            flush_streams()
        return
    except BrokenPipeError:  # whoever read, as `head` does, has had enough
        sys.exit(1)
    except MegacharError as error:
        say_error(f"{type(error).__name__}: {error}")
    except OSError as error:
        say_error(f"PlatformError: {describe(error)}")
    except (MemoryError, RecursionError) as error:
        say_error(f"PlatformError: this takes more memory than there is ({type(error).__name__}); ask for less")
    sys.exit(2)
