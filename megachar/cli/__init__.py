"""The `megachar` command: one thin module per subcommand, none of which imports torch before it needs it."""

import sys

import typer
from rich.console import Console

from megachar.cli.analyze import app as analyze
from megachar.cli.checkpoint import app as checkpoint
from megachar.cli.corpus import app as corpus
from megachar.cli.count import count
from megachar.cli.evaluate import evaluate
from megachar.cli.generate import generate
from megachar.cli.launch import launch
from megachar.cli.plot import plot
from megachar.cli.presets import presets
from megachar.cli.report import report
from megachar.cli.selftest import selftest
from megachar.cli.sweep import sweep
from megachar.errors import MegacharError

app = typer.Typer(
    help="Train, evaluate and sample very deep byte- and character-level transformers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (launch, sweep, selftest, evaluate, generate, report, count, plot, presets):
    app.command()(command)
app.add_typer(analyze, name="analyze")
app.add_typer(corpus, name="corpus")
app.add_typer(checkpoint, name="checkpoint")


def main() -> None:
    """Run the command line; an error of the user's making is one message and exit status 2."""
    try:
        app()
    except MegacharError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"{type(error).__name__}: {error}", style="red",
                                                                    markup=False)  # fmt: skip
        sys.exit(2)
