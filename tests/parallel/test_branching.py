"""Runs of several lengths share a trunk: a branch is the whole run, bit by bit, or it is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megachar.base.errors import CheckpointError, ConfigError
from megachar.config.experiment import Experiment
from megachar.runs.branching import begin_branch, why_not_shared
from megachar.runs.checkpoints.format import list_checkpoints
from megachar.runs.folder import run_folder
from tests.parallel.pool import RankPool
from tests.parallel.test_resume import corpus, experiment_of, file_hashes, lines, train_case

__all__ = ["corpus"]
Ranks = Callable[[int], RankPool]
WSD = {"shape": "wsd", "warmup_steps": 1, "cooldown_fraction": 0.5}


def of_length(corpus: Path, output: Path, name: str, total_steps: int, **more: Any) -> Experiment:
    training = {"total_steps": total_steps, "keep_checkpoints": 1, "checkpoint_interval": 5, "validation_interval": 2}
    auxiliary = {"interval_steps": 2.0}
    found = experiment_of(corpus, output, training=training, schedule=WSD, auxiliary=auxiliary,
                          model={"dropout": 0.2}, **more)  # fmt: skip
    return found.model_copy(update={"name": name})


def test_a_branch_is_the_whole_run(ranks: Ranks, corpus: Path, tmp_path: Path) -> None:
    """From branch to branch: of 6 steps, of 8 from its third, and of 12 from the fourth of that."""
    pool = ranks(2)
    short, middle, long, whole = (
        of_length(corpus, tmp_path, name, total, parallel={"pipe": 2}, deepspeed="bf16_zero1")
        for name, total in (("short", 6), ("middle", 8), ("long", 12), ("whole", 12))
    )
    pool.run(train_case, short.model_dump(), False)
    assert [checkpoint.step for checkpoint in list_checkpoints(run_folder(short))] == [3, 6]
    assert begin_branch(short, middle) == 3
    pool.run(train_case, middle.model_dump(), True)
    assert begin_branch(middle, long) == 4
    pool.run(train_case, long.model_dump(), True)
    pool.run(train_case, whole.model_dump(), False)
    assert file_hashes(run_folder(long), 12) == file_hashes(run_folder(whole), 12)
    assert lines(run_folder(long)) == lines(run_folder(whole))


def test_what_shares_no_trunk(ranks: Ranks, corpus: Path, tmp_path: Path) -> None:
    short, long = of_length(corpus, tmp_path, "short", 6), of_length(corpus, tmp_path, "long", 12)
    with pytest.raises(CheckpointError):
        begin_branch(short, long)  # which was not trained yet
    assert not list(tmp_path.glob(".long*"))
    cosine = long.model_copy(update={"schedule": long.schedule.model_copy(update={"shape": "cosine"})})
    assert "rates of schedule.shape=cosine depend on the length" in str(why_not_shared(cosine))
    by_share = long.model_copy(update={"auxiliary": long.auxiliary.model_copy(update={"interval_steps": None})})
    with pytest.raises(ConfigError, match=r"when layers fall silent depends on the length; set auxiliary.interval_"):
        begin_branch(short, by_share)
    ranks(1).run(train_case, short.model_dump(), False)
    other = long.model_copy(update={"seed": long.seed + 1})
    with pytest.raises(ConfigError, match=rf"seed is {long.seed + 1} and was {long.seed}; set it back"):
        begin_branch(short, other)
    shorter = of_length(corpus, tmp_path, "shorter", 2)
    with pytest.raises(ConfigError, match=r"cools down after 1 steps and cannot begin with 3 of short"):
        begin_branch(short, shorter)
    begin_branch(short, long)
    with pytest.raises(ConfigError, match=r"is there already"):
        begin_branch(short, long)
