"""`megachar scaling run` and `check`: what trains models for scaling laws."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from megachar.base.errors import ConfigError
from megachar.base.tables import print_table
from megachar.cli.shared.given_model import loading
from megachar.cli.shared.options import Format
from megachar.config.sections.data import DataConfig
from megachar.data.blend import Blend
from megachar.runs.preflight import check_data, load_run
from megachar.scaling.climbing import Climb
from megachar.scaling.doubts import doubts_about
from megachar.scaling.ladder import LadderRun, load_ladder, plan_ladder, shares_trunks
from megachar.scaling.results import record_ladder
from megachar.sweeps.progress import progress_of

Overrides = Annotated[list[str] | None, typer.Argument(help="section.key=value, for all runs")]


def run(
    ladder: Annotated[Path, typer.Argument(help="YAML file of the ladder.")],
    overrides: Overrides = None,
    base: Annotated[
        str | None, typer.Option(help="The preset or YAML file that all runs start from; default: the ladder's own.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, max=1024, help="Runs at a time, each on its share of the cores.")] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the runs, what they cost, and what they cannot tell, and stop.")
    ] = False,
) -> None:
    """Train all runs of a ladder; called again, it resumes where it was stopped."""
    loaded = load_ladder(ladder)
    runs = plan_ladder(loaded, base, overrides or [])
    opened: dict[DataConfig, Blend] = {}
    for one in runs:
        data = one.run.experiment.data
        opened[data] = check_data(one.run.experiment, opened.get(data))
    text_size = sum(corpus.split("train").tokens.size for blend in opened.values() for corpus in blend.corpora)
    if dry_run:
        _print_runs(loaded.name, runs, text_size, Console(highlight=False))
        return
    for one in runs:
        progress_of(one.run.experiment)  # before any starts: ConfigError where one was begun with other settings
    folder = record_ladder(runs)
    reason = shares_trunks(runs)
    if reason is not None:
        typer.echo(f"megachar scaling: runs of several lengths share nothing: {reason}")
    climb = Climb(runs, jobs, lambda text: typer.echo(f"megachar scaling: {text}"))
    status = climb.run()
    if status == 0:
        typer.echo(f"fit laws to it: megachar scaling fit {folder}")
    elif climb.failed:
        typer.echo(f"megachar scaling: failed: {', '.join(climb.failed)}; see {folder / 'logs'}", err=True)
    raise typer.Exit(status)


def check(
    experiment: Annotated[str, typer.Argument(help="A preset or a YAML file, of a small transformer.")],
    overrides: Overrides = None,
    widths: Annotated[str, typer.Option(help="Widths, the smallest of which is the base; none: ''.")] = "64,128,256",
    depths: Annotated[str, typer.Option(help="Numbers of layers, likewise.")] = "2,4,8,16,32",
    steps: Annotated[int, typer.Option(min=1, max=1000, help="That each model is trained for.")] = 6,
    output: Annotated[Path, typer.Option(help="The picture; its ending is added.")] = Path("coordinates"),
    picture_format: Format = "png",
) -> None:
    """Draw the coordinate check: how large updates are over width and depth, with the rules for them and without."""
    given = {"widths": _numbers("widths", widths), "depths": _numbers("depths", depths)}
    loaded = load_run(experiment, overrides or [])
    check_data(loaded)
    console = Console(highlight=False)
    with loading("torch"):
        from megachar.base.pictures import save
        from megachar.scaling import coordinates
    sizes = {one: given[f"{one}s"] for one in coordinates.DIRECTIONS if given[f"{one}s"]}
    found = coordinates.check_coordinates(loaded, sizes, steps)
    table = Table("", Column("size", justify="right"), "rules", "update of hidden states", "update of logits")
    for one in found:
        table.add_row(one.direction, str(one.size), _with(one.rules), f"{one.hidden:.4g}", f"{one.logits:.4g}")
    print_table(table, console)
    for direction, rules in itertools.product(sizes, (False, True)):
        hidden, logits = (coordinates.slope(found, direction, rules, what) for what in coordinates.WHATS)
        console.print(f"{direction}, {_with(rules)} rules: slope {hidden:.2f} of hidden states, {logits:.2f} of logits")
    path = output.with_name(f"{output.name}.{picture_format}")
    typer.echo(f"saved {save(coordinates.draw_coordinates(found), path, picture_format)}")


def _with(rules: bool) -> str:
    return "with" if rules else "without"


def _numbers(name: str, text: str) -> list[int]:
    """ConfigError unless these are two different sizes or more, or none."""
    try:
        found = sorted({int(part) for part in text.split(",")}) if text else []
    except ValueError:
        found = [0]
    if text and (len(found) < 2 or found[0] < 1):
        raise ConfigError(f"--{name} {text!r}: give two numbers or more, such as --{name} 32,64,128")
    return found


def _print_runs(name: str, runs: Sequence[LadderRun], text_size: int, console: Console) -> None:
    """The table of a ladder's runs, how long they take, and what they cannot tell."""
    with loading("torch"):
        from megachar.scaling.speed import characters_per_second, trained_characters
    right = ("N (products)", "N (all)", "D", "C", "D/N", "passes", "hours")
    columns = (Column(title, justify="right", no_wrap=True) for title in right)
    title = Text(f"{name}: {len(runs)} runs", style="italic")
    table = Table(Column("run", no_wrap=True), *columns, "state", title=title)
    own, speeds = trained_characters(runs), dict[str, float]()
    hours = saved = 0.0
    for one in runs:
        if one.size not in speeds:
            speeds[one.size] = characters_per_second(one.run.experiment)
        account, speed = one.account, speeds[one.size] * 3600
        hours += own[one.name] / speed
        saved += (account.characters - own[one.name]) / speed
        figures = (f"{account.products:,.0f}", f"{account.parameters:,}", f"{account.characters:,}",
                   f"{account.flops:.3g}", f"{account.characters / account.products:.3g}",
                   f"{account.characters / text_size:.2f}", f"{own[one.name] / speed:.3f}")  # fmt: skip
        state = "held out, " * one.held_out + progress_of(one.run.experiment).state.value
        table.add_row(Text(one.name), *figures, state)
    print_table(table, console)
    console.print(f"{hours:.2f} hours of one process at the speed of this machine; shared trunks save {saved:.2f}")
    reason = shares_trunks(runs)
    if reason is not None:
        console.print(f"runs of several lengths share nothing: {reason}")
    for doubt in doubts_about(runs, text_size):
        console.print(Text(f"doubt: {doubt}", style="yellow"), soft_wrap=True)
