"""A group of commands whose modules are imported when they are called, and not to list them."""

import functools
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from megachar.base.files import expanded
from megachar.cli.help import HelpContext

COMMANDS = {
    "launch": "Train an experiment on pipe x tensor x data processes.",
    "plan": "Every layout on some devices: memory and time by part, the fastest first, and why the others do not fit.",
    "sweep": "Train all runs of a sweep; called again, it resumes where it was stopped.",
    "compare": "Table of the runs of a sweep: what differs, best validation, characters, time, state. CSV as well.",
    "selftest": "Test every collective, a tiny model and the speed of links on pipe x tensor x data processes.",
    "evaluate": "Bits per character of a split: every character is scored exactly once, by the last layer's "
    "first target.",
    "generate": "Continue a prompt. What is no printable UTF-8 is shown escaped; --raw-output keeps the bytes.",
    "report": "Settings, curves, evaluations, checkpoints, samples, analyses and a text colored by "
    "surprise, on one page.",
    "count": "Print the table of parameters by part, in training and at inference, and FLOPs per character.",
    "plot": "Draw the loss curves and the picture of the layers' losses from a run's metrics.",
    "presets": "List the presets and the sweeps with what each is.",
    "analyze": "Look into trained models, as the papers do: a table, a picture and a CSV each.",
    "scaling": "Train ladders of models, fit scaling laws to them, predict runs; check the rules for width and depth.",
    "corpus": "Prepare texts, fetch corpora, adopt datasets, look at what they hold.",
    "checkpoint": "Inspect, verify, export and import checkpoints.",
}
"""Name -> its line in the list. The command is the function of that name in `megachar.cli.NAME`, or the group `app`."""


class Group(TyperGroup):
    """A group whose help says of each command all that its first paragraph does, and cuts none."""

    context_class = HelpContext

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands."""
        helps = [(name, getattr(self.get_command(ctx, name), "help", None) or "") for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, " ".join(text.split("\n\n")[0].split())) for name, text in helps])


class LazyGroup(Group):
    """The commands above."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names, in the order of the list."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """What the list shows of a command; None where there is none of that name."""
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is called."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else load_command(name), rest


def make_group(help: str) -> typer.Typer:
    """An app for commands in a group. Its help is plain text: in no frame, which would cut words on narrow screens."""
    return typer.Typer(cls=Group, help=help, no_args_is_help=True, add_completion=False, rich_markup_mode=None)


def load_command(name: str) -> Any:
    """A command, or a group of commands, from its module."""
    module = import_module(f"megachar.cli.{name}")
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name)(getattr(module, name))
    command: Any = typer.main.get_command(app)
    command.name = name
    for called in getattr(command, "commands", {"": command}).values():
        called.callback = _with_home(called.callback)
        called.context_class = HelpContext
    return command


def _with_home(call: Callable[..., Any]) -> Callable[..., Any]:
    """The same command, whose paths may begin with `~`: shells leave it as it is in --output=~/x."""

    @functools.wraps(call)
    def command(**given: Any) -> Any:
        return call(**{name: _home_in(value) for name, value in given.items()})

    return command


def _home_in(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_home_in(part) for part in value]
    return expanded(value) if isinstance(value, Path) else value
