"""Run folders that an earlier version wrote, of each family, are read, scored and continued.

They lie in tests/runs/older/, with the text that they read: of six steps, and the
checkpoint of the fourth.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megachar.api import load, read_runs
from megachar.cli.prepare import prepare
from megachar.config.experiment import Experiment
from megachar.runs.checkpoints.format import list_checkpoints
from megachar.runs.checkpoints.reading import problems_of
from megachar.runs.folder import RunFolder
from megachar.runs.metrics import read_metrics
from tests.parallel.pool import RankPool
from tests.parallel.whole_run import train

OLDER = Path(__file__).parents[1] / "runs" / "older"
FIGURES = ("step", "bits_per_character", "gradient_norm", "characters", "flops")


def continue_case(values: dict[str, Any]) -> None:
    """On a rank: train to the end."""
    train(Experiment.model_validate(values), resume=True)


def losses(folder: RunFolder) -> list[list[float]]:
    return [[record[name] for name in FIGURES] for record in read_metrics(folder, "train")]


@pytest.mark.parametrize(("family", "bits"), [("transformer", 2.2424), ("recurrent", 2.3218)])
def test_an_older_run(ranks: Callable[[int], RankPool], tmp_path: Path, family: str, bits: float) -> None:
    shutil.copytree(OLDER / family, tmp_path / family)
    folder = RunFolder(tmp_path / family)
    prepare(tmp_path / "corpus", [str(OLDER / "text.txt")], split="80,20,0", vocabulary="characters")
    (checkpoint,) = list_checkpoints(folder)
    assert not list(problems_of(checkpoint, checkpoint.manifest.files))
    (record,) = read_runs(folder.path)
    assert record.subject.step == 6
    before, experiment = losses(folder), folder.load_experiment()
    text = (OLDER / "text.txt").read_text()
    assert load(folder.path, device="cpu").bits(text[-734:], stride=1).mean() == pytest.approx(bits, abs=1e-4)

    data = experiment.data.model_copy(update={"path": str(tmp_path / "corpus")})
    here = experiment.model_copy(update={"data": data, "output": str(tmp_path)})
    ranks(1).run(continue_case, here.model_dump())
    assert [found.step for found in list_checkpoints(folder)] == [4, 6]
    assert losses(folder) == [pytest.approx(row, rel=1e-4) for row in before]
