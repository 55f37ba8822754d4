"""A whole study of a table, and what is written of it: facts, recipe, caution, and files that can be read again."""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from megachar.base.errors import ConfigError, DataError
from megachar.scaling.output import save_study
from megachar.scaling.pictures import draw_study, save_pictures
from megachar.scaling.points import Points, Run, read_points
from megachar.scaling.study import Options, Study, study
from tests.scaling.ladders import HELD_OUT, make_ladder, make_trunks, sound


def ladder() -> Points:
    """A sound ladder, rates tuned at one size, and a held-out run."""
    runs = make_ladder(np.random.default_rng(1), 0.003).runs
    tuned = [runs[0].model_copy(update={"rate": rate, "loss": runs[0].loss * (1 + penalty)})
             for rate, penalty in ((1e-3, 0.05), (2e-3, 0.0), (4e-3, 0.04))]  # fmt: skip
    held_out = Run(N=HELD_OUT[0], D=HELD_OUT[1], loss=1.001 * sound(*HELD_OUT), held_out=True, name="large")
    return Points((*tuned, *runs[1:], held_out))


@pytest.fixture(scope="module")
def found() -> Study:
    return study(ladder(), Options(noise=0.003, starts=4, budgets=(1e14,)))


def test_only_the_best_rate_of_runs_that_are_not_held_out_is_fitted(found: Study) -> None:
    assert len(found.law.points) == 20
    assert {run.rate for run in found.law.points.runs} == {None, 2e-3}
    assert not found.law.points.held_out.runs
    assert [tuning.setting for tuning in found.tunings] == ["rate"]


def test_the_held_out_run_is_predicted(found: Study) -> None:
    [prediction] = found.predictions
    assert prediction.run.name == "large"
    assert prediction.error == pytest.approx(prediction.run.loss / prediction.loss.value - 1)
    assert prediction.holds
    far = study(Points((*ladder().runs[:-1], Run(N=2e6, D=2e7, loss=3, held_out=True))), Options(starts=1))
    assert not far.predictions[0].holds


def test_held_out_runs_change_no_law(found: Study) -> None:
    other = Points((*ladder().runs[:-1], Run(N=2e6, D=2e7, loss=3, held_out=True)))
    again = study(other, Options(noise=0.003, starts=4))
    assert again.law.fit.theta.tolist() == found.law.fit.theta.tolist()
    assert again.published.theta.tolist() == found.published.theta.tolist()


def test_a_table_that_says_little_says_so_first(found: Study) -> None:
    assert found.caution == ""
    few = Points(tuple(make_ladder(np.random.default_rng(0), 0.001).runs[place] for place in (0, 3, 5, 10, 12, 17, 19)))
    assert study(few, Options(starts=1)).caution == (
        "CAUTION: only 7 runs are fitted, fewer than 8; no run is held out, so the law is not tested."
    )


def test_runs_that_share_trunks_are_pointed_to_the_bootstrap(found: Study) -> None:
    """Student's t then holds alpha less often than it says."""
    assert not found.remarks
    points = make_trunks(np.random.default_rng(0), 0.0, 0.003)
    [remark] = study(points, Options(starts=1)).remarks
    assert remark.startswith("runs share trunks")
    assert not study(points, Options(starts=1, resamples=5)).remarks
    own = Points(tuple(run.model_copy(update={"trunk": str(number)}) for number, run in enumerate(points.runs)))
    assert not study(own, Options(starts=1)).remarks


def test_what_is_saved_can_be_fitted_again(found: Study, tmp_path: Path) -> None:
    table, figures = save_study(found, tmp_path / "new" / "folder")
    assert read_points(table).runs == found.table.runs
    saved = json.loads(figures.read_text())
    assert saved["recipe"]["versions"]["scipy"] == version("scipy")
    assert saved["recipe"]["published"]["tolerance"] == 1e-15
    assert (saved["recipe"]["noise"], saved["recipe"]["seed"], saved["recipe"]["level"]) == (0.003, 0, 0.9)
    assert saved["law"]["alpha"]["low"] < saved["law"]["alpha"]["value"] < saved["law"]["alpha"]["high"]
    assert saved["budgets"][0]["C"] == 1e14
    assert len(saved["runs"]) == len(found.table)
    assert sum(run["fitted"] for run in saved["runs"]) == 20
    fitted = [run for run in saved["runs"] if run["fitted"]]
    assert [np.log(run["loss"] / run["law"]) for run in fitted] == pytest.approx([run["residual"] for run in fitted])
    again = study(read_points(table), found.options)
    assert save_study(again, tmp_path / "again")[1].read_bytes() == figures.read_bytes()


def test_what_cannot_be_written_is_refused(found: Study, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for write in (save_study, save_pictures):
        with pytest.raises(ConfigError, match="cannot be written"):
            write(found, tmp_path / "file")


def test_pictures_show_intervals_and_names(found: Study, tmp_path: Path) -> None:
    drawn = draw_study(found)
    assert set(drawn) == {"loss", "optimum", "residuals", "isoflop"}
    assert len(drawn["optimum"].axes[0].collections) == 3  # two bands, and the runs
    for figure in drawn.values():
        assert all(axes.get_xlabel() or axes.get_ylabel() for axes in figure.axes)
    svg = next(path for path in save_pictures(found, tmp_path, "svg") if path.name == "loss.svg").read_text()
    assert "training operations C" in svg
    assert ">1e12</text>" in svg
    assert "mathdefault" not in svg


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(DataError, match="cannot fix 5 parameters"):
        study(Points(make_ladder(np.random.default_rng(0), 0.001).runs[:5]))
