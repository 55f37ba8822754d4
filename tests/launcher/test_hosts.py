"""Two stages of a pipeline on two hosts, for real: DeepSpeed over pdsh and ssh, without ssh, Open MPI, and plain forms.

Every run must give the losses of the same run in one process, bit by bit.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megachar.base.exit_codes import ExitCode
from tests.launcher.commands import AS_ROOT, LAUNCH, MEGACHAR, SMALL, TRAIN, losses, run
from tests.launcher.machines import Cluster


@pytest.fixture(scope="module")
def expected(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, float]]:
    """The losses of one process."""
    output = tmp_path_factory.mktemp("expected")
    result = run([sys.executable, TRAIN, *SMALL, "parallel.pipe=1", f"data.path={corpus}", f"output={output}"])
    assert result.returncode == 0, result.stderr
    return losses(output, "quickstart")


def launch(corpus: Path, output: Path, cluster: Cluster, *options: str) -> list[str]:
    settings = [*SMALL, f"data.path={corpus}", f"output={output}"]
    return [*LAUNCH, *settings, "--hostfile", str(cluster.hostfile([1, 1])), *options]


def check_run(cluster: Cluster, output: Path, expected: list[tuple[int, float]], shown: str) -> None:
    assert losses(output, "quickstart") == expected
    logs = output / "quickstart" / "logs"
    assert "on node1\n" in (logs / "rank-0000.log").read_text()
    assert "on node2\n" in (logs / "rank-0001.log").read_text()
    assert "step 4: saved" in shown
    assert [machine.processes() for machine in cluster.machines] == [[], [], []]


# From a host of the run, and from a login node that is none.
@pytest.mark.parametrize(("launcher", "machine"), [("ssh", 0), ("ssh", 2), ("openmpi", 0)])
def test_one_command(
    cluster: Cluster, corpus: Path, tmp_path: Path, expected: list[tuple[int, float]], launcher: str, machine: int
) -> None:
    command = launch(corpus, tmp_path, cluster, "--launcher", launcher)
    result = cluster.machines[machine].run(command, AS_ROOT)
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
    check_run(cluster, tmp_path, expected, result.stdout)
    folder = tmp_path / "quickstart" / "launch"
    (start,) = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert start["launcher"] == launcher
    assert [place["host"] for place in start["ranks"]] == ["node1", "node2"]
    assert [host["address"] for host in start["hosts"]] == ["10.77.0.1", "10.77.0.2"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "environment", "experiment.yaml", "history.jsonl", "hostfile"]  # fmt: skip


def test_the_self_test_reaches_over_hosts(cluster: Cluster, tmp_path: Path) -> None:
    """Two stages on two hosts: both are named, every check passes, and the link between them is measured."""
    settings = ["quickstart", "device=cpu", "parallel.pipe=2", f"output={tmp_path}"]
    command = [*MEGACHAR, "selftest", *settings, "--hostfile", str(cluster.hostfile([1, 1]))]
    result = cluster.machines[0].run(command, AS_ROOT)
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
    for text in ("│ node1 │", "│ node2 │", "model: parameters", "bandwidth", "nothing is wrong on 2 ranks"):
        assert text in result.stdout, text
    assert [machine.processes() for machine in cluster.machines] == [[], [], []]


def test_the_same_command_on_every_host(
    cluster: Cluster, corpus: Path, tmp_path: Path, expected: list[tuple[int, float]]
) -> None:
    """DeepSpeed's --no_ssh form."""
    first, second, _ = cluster.machines
    command = launch(corpus, tmp_path, cluster, "--launcher", "no_ssh")
    with second.start(command) as other:
        result = first.run(command)
        print(result.stdout)
        assert result.returncode == 0, result.stdout + result.stderr
        assert other.wait() == 0
    check_run(cluster, tmp_path, expected, result.stdout)


def test_without_ssh_all_hosts_leave_on_request(cluster: Cluster, corpus: Path, tmp_path: Path) -> None:
    """One of the two commands is asked to leave: both save, and say that the run can go on."""
    first, second, _ = cluster.machines
    command = launch(corpus, tmp_path, cluster, "--launcher", "no_ssh", "training.total_steps=1000000")
    log = tmp_path / "quickstart" / "logs" / "rank-0000.log"
    with first.start(command) as one, second.start(command) as other:
        deadline = time.monotonic() + 60
        while not (log.exists() and "step 3/" in log.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        second.do("pkill -TERM -o -f 'import main; main'")
        assert other.wait(60) == ExitCode.PREEMPTED
        assert one.wait(60) == ExitCode.PREEMPTED
    assert list((tmp_path / "quickstart" / "checkpoints").glob("step-*"))
    assert [machine.processes() for machine in cluster.machines] == [[], [], []]


def test_plain_torchrun(cluster: Cluster, corpus: Path, tmp_path: Path, expected: list[tuple[int, float]]) -> None:
    first, second, _ = cluster.machines

    def command(rank: int) -> list[str]:
        # node1's own name leads to its loopback address there.
        torchrun = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", "--node_rank", str(rank)]
        meet = ["--master_addr", first.name, "--master_port", "29511"]
        return [sys.executable, *torchrun, *meet, TRAIN, *SMALL, f"data.path={corpus}", f"output={tmp_path}"]

    with second.start(command(1)) as other:
        result = first.run(command(0))
        assert result.returncode == 0, result.stdout + result.stderr
        assert other.wait() == 0
    check_run(cluster, tmp_path, expected, result.stdout)


def test_plain_mpirun(cluster: Cluster, corpus: Path, tmp_path: Path, expected: list[tuple[int, float]]) -> None:
    """Without MASTER_ADDR the ranks agree over MPI."""
    pytest.importorskip("mpi4py")
    python = [sys.executable, TRAIN, *SMALL, f"data.path={corpus}", f"output={tmp_path}"]
    exports = ["-x", "PYTHONPATH", "-x", "OMP_NUM_THREADS"]
    command = ["mpirun", "-n", "2", "--host", "node1:1,node2:1", "--bind-to", "none", *exports, *python]
    result = cluster.machines[0].run(command, AS_ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    check_run(cluster, tmp_path, expected, result.stdout)


def test_the_first_error_of_another_host_is_shown(cluster: Cluster, corpus: Path, tmp_path: Path) -> None:
    """node2 has no corpus, and nothing was checked before a plain start."""
    first, second, _ = cluster.machines
    empty = tmp_path / "empty"
    empty.mkdir()
    second.do(f"mount --bind {empty} {corpus}")
    runner = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", str(cluster.hostfile([1, 1]))]
    command = [*runner, "--master_addr", first.address, TRAIN, *SMALL, f"data.path={corpus}", f"output={tmp_path}"]
    with first.start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        try:
            shown = next(line for line in process.stdout if "DataError" in line)
        finally:
            first.kill_all()  # node1's rank waits for node2's
            second.do(f"umount {corpus}")
    assert "rank 1 on node2: " in shown
    assert f"DataError: {corpus} is no prepared corpus" in shown
