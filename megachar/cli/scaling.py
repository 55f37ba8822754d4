"""`megachar scaling`: fit scaling laws to a table of runs, predict new runs, draw pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from megachar.base.errors import ConfigError
from megachar.base.pictures import PictureFormat
from megachar.cli.lazy import make_group
from megachar.cli.scaling_runs import check, run
from megachar.cli.shared.given_model import loading
from megachar.cli.shared.options import Format

if TYPE_CHECKING:
    from megachar.scaling.study import Study

app = make_group(
    "Train ladders of models, fit scaling laws to them, predict runs; check the rules for width and depth."
)
for command in (run, check):
    app.command()(command)

Table = Annotated[
    Path,
    typer.Argument(
        help="Folder of a ladder, or CSV with columns N, D, loss, and if known C, name, seed, trunk, held_out, ..."
    ),
]
Level = Annotated[float, typer.Option(min=0.5, max=0.999, help="How often intervals hold the truth.")]
SeedNoise = Annotated[
    float | None,
    typer.Option("--noise", help="Deviation of log loss between seeds, such as 0.004; default: from repeated seeds."),
]
Out = Annotated[Path, typer.Option("--out", help="Folder of the results.")]


@app.command()
def fit(
    table: Table,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for JSON, CSV and pictures; default: they are not written.")
    ] = None,
    level: Level = 0.9,
    noise: SeedNoise = None,
    budget: Annotated[
        list[float] | None,
        typer.Option(help="Operations to spend; may be repeated. Default: the largest of the runs, and 10 times it."),
    ] = None,
    bootstrap: Annotated[
        int, typer.Option(min=0, max=100_000, help="Tables to draw by trunk and seed for other intervals; 0: none.")
    ] = 0,
    starts: Annotated[int, typer.Option(min=1, max=10_000, help="Random starts of the published fit.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of starts and bootstrap.")] = 0,
    picture_format: Format = "png",
) -> None:
    """Fit every law that the table allows; show parameters, intervals, predictions and alarms."""
    found = _study(table, level, noise, budget or (), starts, bootstrap, seed)
    from megachar.cli.scaling_report import print_study

    print_study(found, Console(highlight=False))
    if out is not None:
        from megachar.scaling.output import save_study

        paths = save_study(found, out)
        for path in (*paths, *_draw(found, out, picture_format)):
            typer.echo(f"saved {path}")


@app.command()
def predict(
    table: Table,
    parameters: Annotated[float | None, typer.Option(help="N of a new run; default: the best for --compute.")] = None,
    characters: Annotated[float | None, typer.Option(help="D of a new run; default: the best for --compute.")] = None,
    compute: Annotated[
        float | None, typer.Option(help="Operations to spend as well as can be; default: 6 N D of the other two.")
    ] = None,
    level: Level = 0.9,
) -> None:
    """Predict the loss of a run with an interval: of so many parameters and characters, or the best of a budget."""
    given = (parameters is not None, characters is not None, compute is not None)
    if given not in ((True, True, False), (False, False, True)):
        raise ConfigError("give --parameters N and --characters D, or --compute C alone")
    for name, value in (("parameters", parameters), ("characters", characters), ("compute", compute)):
        _check_amount(name, value)
    from megachar.scaling.points import best_settings
    from megachar.scaling.results import read_table

    points = best_settings(read_table(table)).fitted
    with loading("scipy"):
        from megachar.cli.scaling_report import print_budget, print_prediction
        from megachar.scaling.joint import fit_joint
    law = fit_joint(points)
    console = Console(highlight=False)
    if parameters is not None and characters is not None:
        print_prediction(law, parameters, characters, level, console)
    elif compute is not None:
        print_budget(law.budget(compute, level), level, console)


@app.command()
def plot(
    table: Table,
    out: Out = Path("scaling"),
    level: Level = 0.9,
    noise: SeedNoise = None,
    picture_format: Format = "png",
) -> None:
    """Draw the pictures alone: loss against compute, the best N and D, residuals, runs of equal compute."""
    for path in _draw(_study(table, level, noise), out, picture_format):
        typer.echo(f"saved {path}")


def _study(table: Path, level: float, noise: float | None, budgets: "list[float] | tuple[float, ...]" = (),
           starts: int = 1, resamples: int = 0, seed: int = 0) -> "Study":  # fmt: skip
    """The study of a table, once all that was given is known to be right."""
    if noise is not None and not 0 < noise < 1:
        raise ConfigError(f"--noise {noise}: it is a share of the loss, such as 0.004; give one between 0 and 1")
    for budget in budgets:
        _check_amount("budget", budget)
    from megachar.scaling.results import read_table

    points = read_table(table)
    with loading("scipy"):
        from megachar.scaling.study import Options, study
    return study(points, Options(level, noise, tuple(budgets), starts, resamples, seed))


def _draw(found: "Study", out: Path, picture_format: PictureFormat) -> list[Path]:
    with loading("matplotlib"):
        from megachar.scaling.pictures import save_pictures

        return save_pictures(found, out, picture_format)


def _check_amount(name: str, value: float | None) -> None:
    """ConfigError where it is no positive number that an amount can be."""
    if value is not None and not 1 <= value <= 1e60:
        raise ConfigError(f"--{name} {value:g}: it has to be a number from 1 to 1e60")
