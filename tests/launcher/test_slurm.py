"""The job script under a real Slurm, which the machines of a cluster run themselves."""

import os
import sys
import time
from pathlib import Path

import pytest

from megachar.runs.folder import RunFolder
from tests.launcher.commands import SMALL, TRAIN, losses, run, steps_once
from tests.launcher.machines import Cluster
from tests.launcher.slurm import missing_programs, start_slurm

JOB = ["sbatch", "--wait", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0"]


@pytest.fixture(scope="module")
def slurm(cluster: Cluster) -> dict[str, str]:
    if missing := missing_programs():
        pytest.skip(f"not installed: {', '.join(missing)}; see launcher/system_packages.sh")
    commands = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
    return {**start_slurm(cluster), "PATH": commands, "COLUMNS": "1000"}


def submit(cluster: Cluster, slurm: dict[str, str], log: Path, *settings: str) -> tuple[int, str]:
    """Exit status and output of a job."""
    script = ["launcher/slurm.sh", *SMALL, *settings]
    result = cluster.machines[0].run([*JOB, f"--output={log}", *script], slurm)
    return result.returncode, log.read_text() if log.exists() else result.stderr


def test_a_job(cluster: Cluster, slurm: dict[str, str], corpus: Path, tmp_path: Path) -> None:
    where = [f"data.path={corpus}", f"output={tmp_path}"]
    plain = run([sys.executable, TRAIN, *SMALL, *where, "parallel.pipe=1", "name=plain"])
    assert plain.returncode == 0, plain.stderr
    status, log = submit(cluster, slurm, tmp_path / "job.log", *where)
    print(log)
    assert status == 0, log
    assert losses(tmp_path, "quickstart") == losses(tmp_path, "plain")
    logs = tmp_path / "quickstart" / "logs"
    assert "on node1\n" in (logs / "rank-0000.log").read_text()
    assert "on node2\n" in (logs / "rank-0001.log").read_text()
    assert "step 4: saved" in log


def test_a_job_that_is_refused(cluster: Cluster, slurm: dict[str, str], corpus: Path, tmp_path: Path) -> None:
    second, empty = cluster.machines[1], tmp_path / "empty"
    empty.mkdir()
    second.do(f"mount --bind {empty} {corpus}")
    try:
        status, log = submit(cluster, slurm, tmp_path / "job.log", f"data.path={corpus}", f"output={tmp_path}/runs")
    finally:
        second.do(f"umount {corpus}")
    assert status == 2
    assert f"{corpus} is no prepared corpus" in log
    assert "the run cannot start on node2, see above; nothing was started" in log


def test_a_requeued_job(cluster: Cluster, slurm: dict[str, str], corpus: Path, tmp_path: Path) -> None:
    """A node fails, on which Slurm reaches nothing any more, and the job is queued again: its next start waits until
    what is left there has ended. The run is continued, by one process after the other, to its end."""
    control, second, _ = cluster.machines
    folder, log = RunFolder(tmp_path / "quickstart"), tmp_path / "job.log"
    settings = [f"data.path={corpus}", f"output={tmp_path}", "training.total_steps=100", "training.log_interval=1",
                "training.checkpoint_interval=20"]  # fmt: skip
    command = ["sbatch", *JOB[2:], "--parsable", "--exclude=node1", f"--output={log}", "launcher/slurm.sh", *SMALL,
               *settings]  # fmt: skip

    def ask(*words: str) -> str:
        done = control.run(words, slurm)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def wait_for(text: str) -> None:
        """In the job's log. Slurm holds a requeued job back for two minutes, for which the test does not wait."""
        until = time.monotonic() + 90
        while not (log.exists() and text in log.read_text()):
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)
            if ask("squeue", "--noheader", "--format=%r") == "BeginTime":
                ask("scontrol", "update", f"JobId={job}", "StartTime=now", *elsewhere)

    job, elsewhere = ask(*command), list[str]()
    wait_for("step 20: saved")
    second.do("pkill -9 slurmd; pkill -STOP -f 'bin/[m]egachar launch'")
    elsewhere.append("ExcNodeList=")
    ask("scontrol", "update", "NodeName=node2", "State=DOWN", "Reason=test")
    wait_for("is at work: process ")
    second.do("pkill -9 -f 'bin/[m]egachar launch'")
    wait_for("quickstart is finished")
    while ask("squeue", "--noheader"):
        time.sleep(0.2)
    assert steps_once(folder) == list(range(1, 101))
    assert len((folder.launch / "history.jsonl").read_text().splitlines()) == 2
    assert not folder.owner_file.exists()
