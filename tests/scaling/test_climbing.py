"""A ladder that is stopped and called again repeats no finished run, and gives the table of one that was not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from megachar.base.errors import DataError
from megachar.base.exit_codes import ExitCode
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.vocabulary import ByteVocabulary
from megachar.runs.branching import BRANCH_FILE
from megachar.scaling.climbing import shares_of_cores
from megachar.scaling.results import LADDER_FILE, points_of_ladder, read_table

MAIN = [sys.executable, "-c", "from megachar.cli import main; main()", "scaling"]
ONE = {"layers": 2, "width": 16, "heads": 1, "settings": {"model.feed_forward_width": 16}}
LADDER = {
    "name": "tiny",
    "base": "small",
    "shared": {
        "model": {"context": 16, "local_offsets": []},
        "auxiliary": {"intermediate_layers": True, "interval_steps": 3, "reduction": "mean"},
        "schedule": {"shape": "wsd", "warmup_steps": 1, "cooldown_fraction": 0.5},
        "batch": {"micro_size": 2, "global_size": 2},
        "training": {"log_interval": 1000, "validation_interval": 0, "validation_windows": 8, "checkpoint_interval": 0},
        "parallel": {"data": 1},
        "deepspeed": "fp32",
        "device": "cpu",
    },
    "sizes": {"2x16": ONE},
    "characters": [200, 400],
    "held_out": [{"size": "2x16", "characters": 320}],
}


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What follows `megachar scaling run`: the ladder's file, and its corpus."""
    folder = tmp_path_factory.mktemp("ladder")
    (folder / "text").write_bytes(os.urandom(4000).hex().encode())
    prepare_corpus(cut_by_position(folder / "text"), folder / "corpus", ByteVocabulary())
    (folder / "ladder.yaml").write_text(yaml.safe_dump(LADDER))
    return [str(folder / "ladder.yaml"), f"data.path={folder / 'corpus'}"]


def test_a_ladder_is_stopped_and_goes_on(ladder: list[str], tmp_path: Path) -> None:
    """What is finished is not repeated, and a longer run continues from the trunk of a shorter one."""
    folder = tmp_path / "tiny"
    command = [*MAIN, "run", *ladder, f"output={tmp_path}", "--jobs", "2"]
    stopped = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert stopped.stdout is not None
    name = next(line for line in stopped.stdout if "finished" in line).split(": ")[1]
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(60) == ExitCode.PREEMPTED
    before = {path: path.stat().st_mtime_ns for path in folder.glob(f"{name}/checkpoints/step-*/manifest.json")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"fit laws to it: megachar scaling fit {folder}" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (folder / "2x16-s1-384" / BRANCH_FILE).is_file()
    table = points_of_ladder(folder)
    assert [(point.name, point.D, point.held_out) for point in table.runs] == [
        ("2x16-s1-192", 192, False), ("2x16-s1-384", 384, False), ("2x16-held-out-s1-320", 320, True)]  # fmt: skip
    assert len({point.loss for point in table.runs}) == 3
    assert [point.C for point in table.runs] == [11_243_520, 20_127_744, 17_166_336]


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ladder.json: .*; name the folder of a ladder, or a CSV file"):
        read_table(tmp_path)
    (tmp_path / LADDER_FILE).write_text('{"runs": {"one": {}}}')
    with pytest.raises(DataError, match=r"ladder.json is damaged; `megachar scaling run` writes it again"):
        read_table(tmp_path)
    (tmp_path / LADDER_FILE).write_text('{"runs": {"one": {"trunk": "a", "held_out": false}}}')
    with pytest.raises(DataError, match=r"no run of 1 is finished; see `megachar scaling run`"):
        read_table(tmp_path)


def test_jobs_share_the_cores() -> None:
    cores = os.sched_getaffinity(0)
    for jobs in (1, 2, 3, 64):
        shares = shares_of_cores(jobs)
        assert len(shares) == jobs
        assert {core for share in shares for core in share} <= cores
        assert all(shares)
    assert sorted(shares_of_cores(1)[0]) == sorted(cores)
