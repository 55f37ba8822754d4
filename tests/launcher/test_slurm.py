"""The job script under a real Slurm, which the machines of a cluster run themselves."""

import os
import sys
from pathlib import Path

import pytest

from tests.launcher.commands import SMALL, TRAIN, losses, run
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
