"""Options that a command takes as one parameter are options of their own on its command line."""

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from megachar.cli.shared.groups import option, spread


@dataclass(frozen=True)
class Paint:
    """How it is to look."""

    color: Annotated[str, typer.Option(help="Of the wall.")]
    coats: int = option(2, "One over the other.", min=1)


@spread
def paint(
    wall: Annotated[str, typer.Argument(help="Which.")],
    early: Annotated[bool, typer.Option("--early", help="In the morning.")] = False,
    *,
    paint: Paint,
    late: Annotated[bool, typer.Option("--late", help="In the evening.")] = False,
) -> None:
    """Paint a wall."""
    print(wall, early, paint, late)


def invoke(*arguments: str) -> str:
    app = typer.Typer(rich_markup_mode=None)
    app.command()(paint)
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "100"}).output


def test_values_and_defaults_reach_the_group() -> None:
    assert invoke("north", "--color", "blue", "--late") == "north False Paint(color='blue', coats=2) True\n"
    assert invoke("north", "--coats", "3", "--color", "red") == "north False Paint(color='red', coats=3) False\n"


def test_what_a_group_requires_is_required() -> None:
    assert "Missing option '--color'" in invoke("north")


def test_help_has_every_option_where_the_group_stands() -> None:
    shown = invoke("--help")
    assert "Paint a wall." in shown
    places = [shown.index(option) for option in ("--early", "--color", "--coats", "--late")]
    assert places == sorted(places)
    assert "[default: 2; x>=1]" in shown


def test_it_can_be_called_from_python(capsys: pytest.CaptureFixture[str]) -> None:
    paint("south", color="green")
    assert capsys.readouterr().out == "south False Paint(color='green', coats=2) False\n"
