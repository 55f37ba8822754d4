"""Losses by layer are read from a run's records, and a run that has none is told so."""

from pathlib import Path
from typing import Any

import pytest

from megachar.analysis.layers import analyze_layers, check_layers
from megachar.analysis.result import read_analysis
from megachar.base.errors import ConfigError, DataError
from megachar.config.experiment import Experiment
from megachar.config.loading import save_experiment
from megachar.runs.folder import RunFolder
from megachar.runs.plots import draw_layers
from megachar.runs.records import read_records
from tests.runs.test_plots import check_picture, layers_at, write_run


def make_run(folder: Path, **options: Any) -> RunFolder:
    folder.mkdir()
    return write_run(folder, **options)


@pytest.mark.parametrize("num_targets", [1, 2])
def test_analysis(tmp_path: Path, num_targets: int) -> None:
    run = make_run(tmp_path / "run", num_targets=num_targets)
    check_layers(run.path, "train")
    saved = analyze_layers(run.path, "run", "train").save(tmp_path)
    assert read_analysis(saved.json) == saved
    check_picture(saved.figure)
    assert saved.subjects[0].step == 400
    # Layer 5 of 12 is silent from step 84 on: 4 < 84 x 24 / 400.
    fifth, last = saved.table.rows[4], saved.table.rows[-1]
    at_80 = layers_at(80, 12, num_targets)
    assert fifth[:2] == (5, 80)
    assert fifth[2::2] == tuple(at_80[4])
    assert fifth[3] == pytest.approx(at_80[4][0] - at_80[11][0])
    assert last[:2] == (12, 400)
    assert last[3] == 0
    lines = saved.csv.read_text().splitlines()
    assert len(lines) == 1 + 40 * 12 * num_targets
    assert lines[1] == f"10,1,1,{layers_at(10, 12, 1)[0][0]}"
    assert any(line.endswith(",") for line in lines)


def test_validation_records(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    saved = analyze_layers(run.path, "run", "validation").save(tmp_path)
    assert len({line.split(",")[0] for line in saved.csv.read_text().splitlines()[1:]}) == 4
    assert saved.table.rows[0][1] is None  # silent before the first validation


def test_the_dotted_line_is_explained_where_there_is_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    records = read_records(run, ["train"]).of("train")
    for seen, told in ((records, ["layer 12, the last", "step 183: from here on no intermediate layer predicts"]),
                       (records[:15], ["layer 12, the last"])):  # fmt: skip
        figure = draw_layers(run, seen, "run")
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == told
        dotted = [line for axes in figure.axes for line in axes.lines if line.get_linestyle() == ":"]
        assert len(dotted) == 4 * (len(told) - 1)
        assert all(axes.get_xlim()[1] < 1.1 * seen[-1]["step"] for axes in figure.axes[:4])


def test_runs_without_intermediate_classifiers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not a run folder"):
        check_layers(tmp_path, "train")
    one = make_run(tmp_path / "one", num_layers=1)
    with pytest.raises(
        ConfigError, match=r"trained without intermediate classifiers \(it has one layer\); name another"
    ):
        check_layers(one.path, "train")
    experiment = Experiment()
    off = experiment.auxiliary.model_copy(update={"intermediate_layers": False})
    save_experiment(experiment.model_copy(update={"auxiliary": off}), one.experiment_file)
    with pytest.raises(ConfigError, match=r"\(auxiliary\.intermediate_layers is false\); name another run"):
        check_layers(one.path, "train")


def test_records_that_are_not_there(tmp_path: Path) -> None:
    run = write_run(tmp_path, validation=False)
    with pytest.raises(ConfigError, match=r"--records test is unknown; set one of train, validation"):
        check_layers(run.path, "test")
    with pytest.raises(DataError, match=r"metrics\.jsonl holds no validation record yet; wait for the next one"):
        analyze_layers(run.path, "run", "validation")
