"""Everything the examination of the hosts refuses, brought about for real on machines of a cluster."""

import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.launcher.commands import AS_ROOT, LAUNCH, ROOT, SMALL, run
from tests.launcher.machines import SSH_PORT, TEST_RULE, Cluster, Machine

Row = tuple[str, str, str]
"""Host, check, what is wrong."""


class Refused:
    """A launch that must not start."""

    def __init__(self, corpus: Path, output: Path) -> None:
        self.corpus, self.output = corpus, output

    def command(self, *options: str) -> list[str]:
        # Dry, so that a refusal that is missing costs no training: starting comes right after.
        return [*LAUNCH, "--dry-run", *SMALL, f"data.path={self.corpus}", f"output={self.output}", *options]

    def rows(self, machine: Machine, *options: str, environment: dict[str, str] | None = None) -> list[Row]:
        """The table of what is wrong, as `machine` shows it."""
        variables = {"COLUMNS": "10000", **AS_ROOT, **(environment or {})}
        result = machine.run(self.command(*options), variables)
        return self.read(result)

    def read(self, result: subprocess.CompletedProcess[str]) -> list[Row]:
        assert result.returncode == 2, result.stdout + result.stderr
        assert "nothing was started" in result.stderr
        assert not list(self.output.glob("*/launch/*"))  # which are written before anything is started
        lines = [line.split("│") for line in result.stderr.splitlines() if line.startswith("│")]
        return [(host.strip(), check.strip(), problem.strip()) for _, host, check, problem, _ in lines]


@pytest.fixture
def refused(corpus: Path, tmp_path: Path) -> Refused:
    return Refused(corpus, tmp_path / "runs")


def assert_rows(rows: list[Row], *expected: Row) -> None:
    """The rows are these, in any order; of what is wrong, a part is given."""
    assert sorted(row[:2] for row in rows) == sorted(row[:2] for row in expected), rows
    for host, check, part in expected:
        assert any(part in problem for at, what, problem in rows if (at, what) == (host, check)), (part, rows)


def replace_file(machine: Machine, path: Path, text: str, folder: Path) -> None:
    """Another text in a file, on one machine only."""
    copy = folder / f"{machine.name}-{path.name}"
    copy.write_text(text, encoding="utf-8")
    machine.do(f"mount --bind '{copy}' '{path}'")


def test_a_host_that_differs(fresh_cluster: Cluster, refused: Refused, tmp_path: Path) -> None:
    """All that is not the same on node2 is in one table, and nothing of node1."""
    first, second, _ = fresh_cluster.machines
    source = ROOT / "megachar" / "base" / "units.py"
    replace_file(second, source, source.read_text() + "\n", tmp_path)
    for package in ("torch", "deepspeed"):
        metadata = Path(str(importlib.metadata.distribution(package).locate_file(""))) / next(
            str(path) for path in importlib.metadata.files(package) or () if path.name == "METADATA"
        )
        version = f"\nVersion: {importlib.metadata.version(package)}\n"
        replace_file(second, metadata, metadata.read_text().replace(version, "\nVersion: 1.2.3\n"), tmp_path)
    card = refused.corpus / "dataset.json"
    replace_file(second, card, card.read_text().replace('"text"', '"other text"'), tmp_path)
    replace_file(second, ROOT / "ds_configs" / "fp32.json", '{"zero_optimization": {"stage": 1}}', tmp_path)
    refused.output.mkdir()
    second.do(f"mount -t tmpfs tmpfs {refused.output}")
    second.do(f"mount --bind /dev/null {shutil.which('orted')}")
    hostfile = fresh_cluster.hostfile([1, 1])
    rows = refused.rows(first, "--hostfile", str(hostfile), "--launcher", "openmpi")
    torch, deepspeed = importlib.metadata.version("torch"), importlib.metadata.version("deepspeed")
    assert_rows(
        rows,
        ("node2", "megachar", "check out the same commit"),
        ("node2", "torch", f"1.2.3, but node1 has {torch}; install torch {torch} there"),
        ("node2", "deepspeed", f"1.2.3, but node1 has {deepspeed}"),
        ("node2", "data", "copy the same corpus there, or share it"),
        ("node2", "DeepSpeed JSON", "copy the same file there"),
        ("node2", "run folder", "does not see what the launching machine writes"),
        ("node2", "programs", "orted is not installed there"),
    )


def test_hosts_that_cannot_be_reached(fresh_cluster: Cluster, refused: Refused, tmp_path: Path) -> None:
    first, second, third = fresh_cluster.machines
    fresh_cluster.set_link(second, False)
    third.do("pkill -x sshd")
    hostfile = tmp_path / "hosts"
    hostfile.write_text("node1 slots=1\nnode2 slots=1\nnode3 slots=1\nnode9.invalid slots=1\n")
    rows = refused.rows(
        first, "--hostfile", str(hostfile), "--timeout", "10", "parallel.data=2", "batch.global_size=64"
    )
    assert_rows(
        rows,
        ("node2", "ssh", f"connect to host node2 port {SSH_PORT}: Connection timed out; `ssh node2` must work without"),
        ("node3", "ssh", "Connection refused"),
        ("node9.invalid", "ssh", "Could not resolve hostname node9.invalid"),
    )


def test_hosts_without_megachar(fresh_cluster: Cluster, refused: Refused) -> None:
    first, second, third = fresh_cluster.machines
    second.do(f"mount -t tmpfs tmpfs {ROOT}/megachar")
    third.do(f"mount -t tmpfs tmpfs {Path(sys.executable).parent}")
    rows = refused.rows(
        first, "--hostfile", str(fresh_cluster.hostfile([1, 1, 1])), "parallel.pipe=3", "model.num_layers=3"
    )
    assert_rows(
        rows,
        ("node2", "megachar", "install the same megachar there"),
        ("node3", "megachar", "No such file or directory"),
    )


def test_a_port_that_is_taken_and_a_wrong_name(fresh_cluster: Cluster, refused: Refused, tmp_path: Path) -> None:
    first, second, third = fresh_cluster.machines
    with listening(first, 29500):
        replace_file(second, Path("/etc/hosts"), "127.0.0.1 localhost\n10.77.0.3 node1\n10.77.0.2 node2\n", tmp_path)
        rows = refused.rows(third, "--hostfile", str(fresh_cluster.hostfile([1, 1])))
    assert_rows(
        rows,
        ("node1", "port", "port 29500 is taken"),
        ("node2", "host names", "it takes node1 for 10.77.0.3, but node1 is at 10.77.0.1"),
    )


def test_no_way_to_the_master(fresh_cluster: Cluster, refused: Refused) -> None:
    """node2 is reached from the login node, and cannot reach node1."""
    _, second, third = fresh_cluster.machines
    second.do("ip route add unreachable 10.77.0.1/32")
    rows = refused.rows(third, "--hostfile", str(fresh_cluster.hostfile([1, 1])))
    assert_rows(
        rows,
        ("node1", "way to node2", "10.77.0.2 port"),
        ("node2", "network interface", "node2 has no route to 10.77.0.1"),
        ("node2", "way to node1", "10.77.0.1 port"),
    )


def test_a_firewall_between_the_hosts(fresh_cluster: Cluster, refused: Refused) -> None:
    """ssh comes through, and what the ranks need does not; a rule of node2's routing stands for the firewall."""
    _, second, third = fresh_cluster.machines
    second.do(f"ip rule add pref {TEST_RULE} to 10.77.0.1 dport 29500 unreachable")
    rows = refused.rows(third, "--hostfile", str(fresh_cluster.hostfile([1, 1])))
    assert_rows(
        rows, ("node2", "way to node1", "10.77.0.1 port 29500: [Errno 101] Network is unreachable; let it through")
    )


def test_a_read_only_folder_and_a_host_that_hangs(fresh_cluster: Cluster, refused: Refused, tmp_path: Path) -> None:
    first, second, third = fresh_cluster.machines
    refused.output.mkdir()
    second.do(f"mount --bind {refused.output} {refused.output}; mount -o remount,bind,ro {refused.output}")
    replace_file(third, ROOT / "megachar" / "base" / "errors.py", "import time\ntime.sleep(60)\n", tmp_path)
    hostfile = fresh_cluster.hostfile([1, 1, 1])
    rows = refused.rows(first, "--hostfile", str(hostfile), "--timeout", "6", "parallel.pipe=3", "model.num_layers=3")
    assert_rows(
        rows,
        ("node2", "run folder", "Read-only file system"),
        ("node3", "answer", "no answer within 6 s"),
    )


def test_no_space_for_the_checkpoints(fresh_cluster: Cluster, refused: Refused) -> None:
    first = fresh_cluster.machines[0]
    refused.output.mkdir()
    first.do(f"mount -t tmpfs -o size=1m tmpfs {refused.output}")
    rows = refused.rows(first)
    assert_rows(rows, ("localhost", "disk space", "0.00105 GB are free, and the checkpoints still to come take 0.00"))
    assert "training.keep_checkpoints = 2, the best, and one more while it is written" in rows[0][2]


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there are GPUs here")
def test_more_ranks_than_gpus(cluster: Cluster, refused: Refused) -> None:
    rows = refused.rows(cluster.machines[0], "--hostfile", str(cluster.hostfile([1, 1])), "device=cuda")
    problem = "1 ranks are to run there on 0 GPUs; set device=cpu"
    assert_rows(rows, ("node1", "slots", problem), ("node2", "slots", problem))


def test_too_few_slots(cluster: Cluster, refused: Refused) -> None:
    options = ["--hostfile", str(cluster.hostfile([1, 1])), "parallel.data=2", "batch.global_size=64"]
    result = cluster.machines[0].run(refused.command(*options))
    assert result.returncode == 2
    assert "pipe 2 x tensor 1 x data 2 needs 4 slots and there are 2 (node1 slots=1, node2 slots=1)" in result.stderr


@contextmanager
def listening(machine: Machine, port: int) -> Iterator[None]:
    """Something that listens on a port of a machine."""
    code = f"import socket; s = socket.create_server(('', {port})); print('listens', flush=True); open(0).read()"
    with machine.start([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "listens\n"
        yield


def both(refused: Refused, cluster: Cluster, first: list[str], second: list[str]) -> tuple[list[Row], list[Row]]:
    """What two machines show that start without ssh."""
    one, two, _ = cluster.machines
    common = ["--hostfile", str(cluster.hostfile([1, 1])), "--launcher", "no_ssh", "--timeout", "5"]
    environment = {"COLUMNS": "10000"}
    with two.start(
        refused.command(*common, *second), environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as other:
        shown = one.run(refused.command(*common, *first), environment)
        output, errors = other.communicate(timeout=60)
        return refused.read(shown), refused.read(subprocess.CompletedProcess([], other.returncode, output, errors))


def test_without_ssh_all_hosts_show_what_is_wrong(cluster: Cluster, refused: Refused) -> None:
    """The second host was started with another seed."""
    shown, shown_there = both(refused, cluster, [], ["seed=2"])
    assert_rows(shown, ("node2", "settings", "started with other settings or another hostfile"))
    assert shown_there == shown


def test_without_ssh_one_number_twice(cluster: Cluster, refused: Refused) -> None:
    shown, _ = both(refused, cluster, ["--node-rank", "0"], ["--node-rank", "0", "--master-port", "29501"])
    assert_rows(shown, ("node2", "call", "it did not call within 5 s; run the same command there"))


def test_without_ssh_a_host_that_is_not_started(cluster: Cluster, refused: Refused) -> None:
    first, second, _ = cluster.machines
    options = ["--hostfile", str(cluster.hostfile([1, 1])), "--launcher", "no_ssh", "--timeout", "2"]
    assert_rows(refused.rows(first, *options), ("node2", "call", "it did not call within 2 s"))
    rows = refused.rows(second, *options)
    assert_rows(rows, ("node2", "call", "node1 does not answer at node1 port 29500 within 2 s"))
    with listening(first, 29500):
        assert_rows(refused.rows(first, *options), ("node1", "port", "port 29500 is taken"))


def test_programs_of_the_launcher(refused: Refused, tmp_path: Path) -> None:
    """A machine without pdsh, and mpirun as root."""
    hostfile = tmp_path / "hosts"
    hostfile.write_text("localhost slots=2\n")
    command = refused.command("--hostfile", str(hostfile))
    rows = refused.read(run(command, environment={"PATH": str(tmp_path), "COLUMNS": "10000"}))
    here = rows[0][0]
    assert_rows(rows, (here, "programs", "pdsh is not installed here; --launcher ssh needs it"),
                (here, "programs", "ssh is not installed here"))  # fmt: skip


def test_mpirun_as_root(cluster: Cluster, refused: Refused) -> None:
    rows = refused.rows(cluster.machines[0], "--launcher", "openmpi", environment={"OMPI_ALLOW_RUN_AS_ROOT": "0"})
    problem = "mpirun refuses to run as root; set OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
    assert_rows(rows, ("node1", "root", problem))
