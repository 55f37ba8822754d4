"""The list of commands, which imports none of them."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest
from typer.testing import CliRunner

from megachar.cli import app
from megachar.cli.lazy import COMMANDS, load_command


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_of_a_command_what_its_own_help_does(name: str) -> None:
    command = load_command(name)
    assert command.name == name
    assert " ".join((command.help or "").split("\n\n")[0].split()) == COMMANDS[name]
    own = CliRunner().invoke(app, [name, "--help"])
    assert own.exit_code == 0
    assert f"{name} [OPTIONS]" in own.output


def test_listing_imports_no_command() -> None:
    """Nor pydantic, numpy or what else a command needs."""
    code = """
import sys
from collections.abc import Iterator
from megachar.cli import main
try:
    main()
except SystemExit:
    heavy = [name for name in sys.modules if name.partition(".")[0] in ("pydantic", "numpy", "omegaconf", "psutil")]
    print("LOADED", heavy, sorted(name for name in sys.modules if name.startswith("megachar.") and "cli" not in name))
"""
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "LOADED [] ['megachar.base', 'megachar.base.errors', 'megachar.base.files']"
    for name in COMMANDS:
        assert f" {name} " in done.stdout


def test_an_unknown_command_is_refused() -> None:
    wrong = CliRunner().invoke(app, ["lunch"])
    assert wrong.exit_code == 2
    assert "No such command 'lunch'" in wrong.output


def test_the_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"megachar {version('megachar')}\n"


INPUTS = {"--prompt", "--prompt-file", "--text", "--file", "--word", "--words-file", "--train", "--valid", "--test",
          "--from", "--raw-output", "--json"}  # fmt: skip
"""Options that are nothing by default: texts, and files to write."""


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that is no group, with the words that call it."""
    todo = [(name, load_command(name)) for name in COMMANDS]
    while todo:
        name, command = todo.pop()
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name, command
        else:
            todo += [(f"{name} {own}", each) for own, each in inner.items()]


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_help_states_every_default_and_shows_choices(name: str, command: Any) -> None:
    for option in (param for param in command.params if param.param_type_name == "option" and not param.is_flag):
        stated = option.required or option.default is not None or "default" in option.help.lower()
        assert stated or INPUTS & set(option.opts), option.opts
    shown = CliRunner().invoke(app, [*name.split(), "-h"]).output
    assert shown.isascii()
    assert "<bool>" not in shown
    assert "--install-completion" not in shown
    for choice in ("device <auto|cpu|cuda>", "precision <fp32|bf16>", "dynamic <sgd|rms>", "records <train|validation>",
                   "split <valid|test|train>"):  # fmt: skip
        option_name = f"--{choice.split()[0]} "
        free = option_name == "--split " and name.startswith("corpus")
        free = free or (option_name == "--device " and name == "plan")  # any that is in a file
        assert option_name not in shown or free or f"--{choice}" in shown


@pytest.mark.parametrize("group", [[], ["analyze"], ["scaling"], ["corpus"], ["checkpoint"]])
def test_a_list_of_commands_cuts_no_line(group: list[str]) -> None:
    shown = CliRunner().invoke(app, [*group, "-h"]).output
    assert "..." not in shown.partition("Commands:")[2]
    if not group:
        words = " ".join(shown.split())
        assert all(f"{name} {text}" in words for name, text in COMMANDS.items())
