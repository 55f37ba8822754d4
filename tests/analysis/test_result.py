"""Results of an analysis are saved, named, read again and found in a run; one never replaces another."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from megachar.analysis.result import (
    FOLDER,
    Analysis,
    Column,
    Subject,
    Table,
    label_sources,
    read_analysis,
    result_folder,
)
from megachar.base.errors import ConfigError, DataError
from megachar.config.experiment import Experiment
from megachar.config.loading import save_experiment
from tests.runs.test_plots import check_picture


def make_analysis(label: str = "small", path: str = "/runs/small", **more: Any) -> Analysis:
    figure = Figure(layout="constrained")
    figure.subplots().plot([1, 2], [3, 4], linewidth=20)
    table = Table((Column("length"), Column("loss (bits)", ".2f")), ((32, 1.23456), (64, None), ("all, whole", 1.0)))
    values = {"split": "valid", "settings": {"seed": 1}, **more}
    return Analysis(
        "context", "Loss by context", (Subject(label, path, 70),), table, figure, "Lower is better.", **values
    )


def test_saved_and_read(tmp_path: Path) -> None:
    saved = make_analysis().save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".png", ".json"}
    assert all(path.name.startswith("context-small-valid-") for path in tmp_path.iterdir())
    check_picture(saved.figure)
    with saved.csv.open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["length", "loss (bits)"],
            ["32", "1.23456"],
            ["64", ""],
            ["all, whole", "1.0"],
        ]
    assert read_analysis(saved.json) == saved
    assert saved.table.texts() == [["32", "1.23"], ["64", "-"], ["all, whole", "1.00"]]


def test_a_picture_for_print_lies_beside_the_one_of_reports(tmp_path: Path) -> None:
    saved = make_analysis().save(tmp_path, "svg")
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".png", ".json", ".svg"}
    assert saved.figure.with_suffix(".svg").read_text().startswith("<?xml")
    assert read_analysis(saved.json) == saved


def test_details_go_to_the_csv(tmp_path: Path) -> None:
    details = Table((Column("step"),), ((1,), (2,)))
    saved = make_analysis(details=details).save(tmp_path)
    assert saved.csv.read_text() == "step\n1\n2\n"
    assert len(read_analysis(saved.json).table.rows) == 3


@pytest.mark.parametrize(
    "other", [{"path": "/other/small"}, {"label": "large"}, {"split": "test"}, {"settings": {"seed": 2}}]
)
def test_another_analysis_replaces_nothing(tmp_path: Path, other: dict[str, Any]) -> None:
    make_analysis().save(tmp_path)
    make_analysis(**other).save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 6
    make_analysis().save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 6


def test_many_runs_have_a_short_name(tmp_path: Path) -> None:
    subjects = tuple(Subject(f"ünï/{i:03} long name", f"/{i}", 1) for i in range(50))
    analysis = make_analysis()
    analysis = Analysis("sizes", "", subjects, analysis.table, analysis.figure, "")
    assert len(analysis.file_stem) < 90
    assert analysis.save(tmp_path).csv.is_file()


def test_found_in_a_run(tmp_path: Path) -> None:
    folder = result_folder(tmp_path, None)
    assert folder == tmp_path / "analyses"
    saved = [make_analysis(label=label).save(folder) for label in ("b", "a")]
    found = [read_analysis(path) for path in sorted((tmp_path / FOLDER).glob("*.json"))]
    assert found == saved[::-1]


def test_no_result(tmp_path: Path) -> None:
    saved = make_analysis().save(tmp_path)
    saved.figure.unlink()
    with pytest.raises(DataError, match=r"names context-small-valid-\w+\.png, which is not beside it; run .* again"):
        read_analysis(saved.json)
    saved.json.write_text(json.dumps({"analysis": "context"}))
    with pytest.raises(DataError, match=r"is no result of an analysis \(title: Field required\)"):
        read_analysis(saved.json)


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ConfigError, match=r"results cannot be written to .*/file: .*name a writable folder with --output"
    ):
        result_folder(tmp_path, tmp_path / "file")
    with pytest.raises(ConfigError, match=r"absent/context.*csv cannot be written: No such file"):
        make_analysis().save(tmp_path / "absent")


def test_labels(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("a/small", "b/small", "b/large")]
    for run in runs:
        run.mkdir(parents=True)
        save_experiment(Experiment(), run / "resolved.yaml")
    checkpoint = runs[2] / "checkpoints" / "step-00000010"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").touch()
    exported = tmp_path / "large.safetensors"
    exported.touch()
    assert label_sources(runs) == ["a/small", "b/small", "large"]
    assert label_sources([runs[0], runs[2], checkpoint]) == ["small", "large", "large@10"]
    assert label_sources([runs[2], exported]) == ["b/large", f"{tmp_path.name}/large"]
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    odd.mkdir()
    assert label_sources([odd]) == [r"caf\xe9"]  # which pictures and JSON can show
    with pytest.raises(ConfigError, match=r"small is given twice; name each run once"):
        label_sources([runs[0], tmp_path / "b" / ".." / "a" / "small"])
