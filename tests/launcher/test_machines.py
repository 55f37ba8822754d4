"""The machines themselves: what they are to each other, and that nothing of them is left."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.launcher.commands import ROOT, left_over
from tests.launcher.machines import Cluster

MAKE = """
import sys, time
from pathlib import Path
from tests.launcher.machines import Cluster
with Cluster(Path(sys.argv[1])) as cluster:
    cluster.machines[0].start(["ssh", "node2", "sleep", "1000"])
    while not cluster.machines[1].processes():
        time.sleep(0.1)
    print("up", flush=True)
    time.sleep(1000)
"""


def test_a_machine_whose_link_is_down(cluster: Cluster) -> None:
    first, second, third = cluster.machines
    ask = ["ssh", second.name, "hostname"]
    assert first.run(ask).stdout == "node2\n"
    cluster.set_link(second, False)
    assert first.run(["ssh", "-o", "ConnectTimeout=1", second.name, "hostname"]).returncode == 255
    assert first.run(["ssh", third.name, "hostname"]).stdout == "node3\n"
    cluster.set_link(second, True)
    assert first.run(ask).stdout == "node2\n"


def test_processes_and_their_end(cluster: Cluster) -> None:
    first, second, _ = cluster.machines
    with second.start(["sleep", "1000"]) as process:
        while second.processes() != ["sleep 1000"]:
            time.sleep(0.05)
        assert first.processes() == []
        second.kill_all()
        assert process.wait() == -signal.SIGKILL
    assert second.processes() == []
    assert first.run(["ssh", second.name, "hostname"]).stdout == "node2\n"


def test_nothing_is_left_when_the_test_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAKE, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert len(left_over(str(tmp_path))) > 2
        process.kill()
    deadline = time.monotonic() + 10
    while left := left_over(str(tmp_path)):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
