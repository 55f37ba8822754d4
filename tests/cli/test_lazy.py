"""The list of commands, which imports none of them."""

import subprocess
import sys
from importlib.metadata import version

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
from megachar.cli import main
try:
    main()
except SystemExit:
    heavy = [name for name in sys.modules if name.partition(".")[0] in ("pydantic", "numpy", "omegaconf", "psutil")]
    print("LOADED", heavy, sorted(name for name in sys.modules if name.startswith("megachar.") and "cli" not in name))
"""
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "LOADED [] ['megachar.errors', 'megachar.files']"
    for name in COMMANDS:
        assert f" {name} " in done.stdout


def test_an_unknown_command_is_refused() -> None:
    wrong = CliRunner().invoke(app, ["lunch"])
    assert wrong.exit_code == 2
    assert "No such command 'lunch'" in wrong.output


def test_the_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"megachar {version('megachar')}\n"
