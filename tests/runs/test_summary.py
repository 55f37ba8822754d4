"""The last lines of a run say what it took, what it reached, and what comes next."""

import json
from pathlib import Path

import pytest

from megachar.config.experiment import Experiment
from megachar.families.transformer.model import Transformer
from megachar.runs.folder import RunFolder
from megachar.runs.summary import Ending, summarize
from tests.runs.checkpoints_by_hand import small, write_checkpoint

OVERRIDES = ("name=wide", "batch.global_size=8", "batch.micro_size=8", "training.total_steps=6400")


@pytest.fixture
def experiment(tmp_path: Path, model: Transformer, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """Of a run in this folder, validated three times, once without a figure."""
    monkeypatch.chdir(tmp_path)
    experiment = small(*OVERRIDES, f"output={tmp_path / 'runs'}")
    folder = RunFolder(tmp_path / "runs" / "wide")
    for step in (3200, 6400):
        write_checkpoint(folder, step, dict(model.named_parameters()), experiment)
    records = [(1000, 2.5), (2000, 2.25), (3000, float("nan")), (4000, 2.375)]
    folder.metrics_file.write_text("".join(
        json.dumps({"kind": "validation", "step": step, "bits_per_character": bits}) + "\n" for step, bits in records
    ))  # fmt: skip
    return experiment


def test_a_finished_run_sums_up_and_says_what_comes_next(experiment: Experiment) -> None:
    lines = summarize(experiment, Ending(0, 6400, 409_600, 598.4, finished=True))
    assert lines == [
        "wide is finished",
        "  time   0:09:58",
        "  read   409,600 characters in 6,400 of 6,400 steps",
        "  best   2.2500 bits per character in validation, at step 2,000",
        "  saved  runs/wide/checkpoints/step-00006400",
        "  next   megachar evaluate runs/wide",
        '         megachar generate runs/wide --prompt "the "',
        "         megachar plot runs/wide",
    ]
    assert max(map(len, lines)) <= 80


def test_bits_are_of_what_the_run_says_they_are(experiment: Experiment) -> None:
    record = {"kind": "validation", "step": 5000, "bits_per_character": 2.0, "unit": "token"}
    with RunFolder(Path("runs/wide")).metrics_file.open("a") as file:
        file.write(json.dumps(record) + "\n")
    lines = summarize(experiment, Ending(0, 6400, 409_600, 598.4, finished=True))
    assert "  best   2.0000 bits per token in validation, at step 5,000" in lines


def test_a_run_that_was_asked_to_leave_says_how_to_go_on(experiment: Experiment) -> None:
    lines = summarize(experiment, Ending(3200, 5000, 320_000, 61, finished=False))
    assert lines[:3] == ["wide was asked to leave", "  time   0:01:01 since step 3,200",
                         "  read   320,000 characters in 5,000 of 6,400 steps"]  # fmt: skip
    assert lines[-1] == "  next   megachar launch runs/wide/resolved.yaml --resume"


def test_a_run_on_several_corpora_names_one_to_evaluate_on(experiment: Experiment) -> None:
    blend = [{"path": "/data/a b", "weight": 1.0}, {"path": "/data/c", "weight": 1.0}]
    blended = experiment.model_copy(update={"data": experiment.data.model_validate({"blend": blend})})
    lines = summarize(blended, Ending(0, 6400, 409_600, 1, finished=True))
    assert "  next   megachar evaluate runs/wide --data '/data/a b'" in lines


def test_what_there_is_not_is_left_out(tmp_path: Path) -> None:
    """Elsewhere, before any validation or checkpoint: the commands would find nothing."""
    lines = summarize(small(*OVERRIDES, f"output={tmp_path}"), Ending(0, 10, 640, 1, finished=True))
    assert lines == ["wide is finished", "  time   0:00:01", "  read   640 characters in 10 of 6,400 steps"]
