"""`megachar scaling` as a user calls it: what it shows, writes, and refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from megachar.base.errors import ConfigError, DataError
from megachar.cli import app
from megachar.scaling.points import Points, Run, write_points
from tests.scaling.ladders import HELD_OUT, make_ladder, sound


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound ladder of trunks, and a held-out run."""
    runs = [run.model_copy(update={"trunk": f"{run.N:g}", "seed": seed}) for seed in (1, 2)
            for run in make_ladder(np.random.default_rng(seed + 4), 0.003).runs]  # fmt: skip
    held_out = Run(N=HELD_OUT[0], D=HELD_OUT[1], loss=1.001 * sound(*HELD_OUT), held_out=True, name="large")
    path = tmp_path_factory.mktemp("scaling") / "ladder.csv"
    with path.open("w", encoding="utf-8") as file:
        write_points(Points((*runs, held_out)), file)
    return path


def invoke(*arguments: Any) -> str:
    """What the command prints; its error is raised."""
    outcome = CliRunner().invoke(app, ["scaling", *map(str, arguments)], env={"COLUMNS": "160"})
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def test_fit_shows_the_law_its_predictions_and_alarms(table: Path, tmp_path: Path) -> None:
    shown = invoke("fit", table, "--out", tmp_path / "fit", "--bootstrap", 40, "--starts", 2, "--budget", "1e15")
    for words in ("L = E + A N^-alpha + B D^-beta from 40 runs", "│ alpha │", "as published", "C = 1e+15: best N",
                  "large", "Bootstrap: 40 tables of 10 groups", "Alarms: 0 fired", "beta stays: "):  # fmt: skip
        assert words in shown, shown
    assert not shown.startswith("CAUTION")
    saved = {path.name for path in (tmp_path / "fit").iterdir()}
    assert saved == {"fit.json", "runs.csv", "loss.png", "optimum.png", "residuals.png", "isoflop.png"}
    assert all(f"saved {tmp_path / 'fit' / name}" in shown for name in saved)
    assert json.loads((tmp_path / "fit" / "fit.json").read_text())["bootstrap"]["resamples"] == 40


def test_a_small_table_is_cautioned_of_in_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "small.csv"
    with path.open("w", encoding="utf-8") as file:
        write_points(Points(make_ladder(np.random.default_rng(0), 0.003).runs[:12]), file)
    assert invoke("fit", path, "--starts", 1).startswith("CAUTION: no run is held out")


def test_predict_a_run_and_a_budget(table: Path) -> None:
    shown = invoke("predict", table, "--parameters", 1.8e6, "--characters", "1.6e7")
    assert shown.startswith("N = 1.8e+06, D = 1.6e+07: loss ")
    assert float(shown.split("loss ")[1].split()[0]) == pytest.approx(sound(*HELD_OUT), rel=0.02)
    assert "4 times the largest fitted compute" in shown
    assert invoke("predict", table, "--compute", 1e15).startswith("C = 1e+15: best N ")


def test_plot_draws_the_pictures_alone(table: Path, tmp_path: Path) -> None:
    invoke("plot", table, "--out", tmp_path, "--format", "svg")
    assert {path.suffix for path in tmp_path.iterdir()} == {".svg"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["predict"], "give --parameters N and --characters D, or --compute C alone"),
        (["predict", "--parameters", 1e6], "give --parameters N and --characters D"),
        (["predict", "--compute", 1e12, "--characters", 1e6], "--compute C alone"),
        (["predict", "--compute", "nan"], "--compute nan: it has to be a number from 1 to 1e60"),
        (["predict", "--compute", 0], "--compute 0: it has to be a number"),
        (["fit", "--budget", "inf"], "--budget inf: it has to be a number"),
        (["fit", "--noise", 4], "--noise 4.0: it is a share of the loss"),
    ],
)
def test_what_is_wrong_is_named(arguments: list[Any], reason: str, table: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        invoke(arguments[0], table, *arguments[1:])
    assert reason in str(refused.value)


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    for command in ("fit", "plot"):
        with pytest.raises(DataError, match=r"none\.csv"):
            invoke(command, tmp_path / "none.csv")
