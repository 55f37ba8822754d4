"""What passes the checks before a start trains, saves and resumes: experiments drawn at random, on forked ranks."""

import secrets
from pathlib import Path

from tests.experiments.legal import run_many
from tests.parallel.pool import RankPool

RUNS = 4
"""Hundreds are run by hand: `python -m tests.experiments.legal --count 300`."""


def test_legal_experiments_train_and_resume(tmp_path: Path) -> None:
    tally = run_many([secrets.randbits(32) for _ in range(100)], RUNS, tmp_path, RankPool)
    assert tally.run == RUNS
    assert not tally.failed, "\n".join(f"seed {seed}: {error}" for seed, error in tally.failed.items())
