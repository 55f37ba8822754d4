"""The program that starts the ranks of this machine: what they are told, whose status counts, and that none is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megachar.base.exit_codes import ExitCode
from megachar.launching import local
from tests.launcher.commands import LAUNCHER_VARIABLES, ROOT

RANK = """
import os, signal, sys, time
from pathlib import Path
folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
(folder / f"rank-{rank}").write_text(f"{os.getpid()} " + " ".join(os.environ[name] for name in (
    "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "MARK")))
"""


PROGRAM = ("-m", "megachar.launching.local")


def start(folder: Path, code: str, device: str = "cuda", program: tuple[str, str] = PROGRAM) -> "subprocess.Popen[str]":
    """`cuda` starts a new process for every rank, which is quick here; `cpu` forks them."""
    script = folder / "script.py"
    script.write_text(RANK + code)
    command = [sys.executable, "-u", *program, "--ranks", "2", "--port", "1234",
               "--device", device, str(script), str(folder)]  # fmt: skip
    variables = {name: value for name, value in os.environ.items() if name not in LAUNCHER_VARIABLES}
    variables |= {"PYTHONPATH": str(ROOT), "MARK": "an-attempt"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=variables)


def told(folder: Path, rank: int) -> list[str]:
    """A rank's process number, and its variables, once it has written them."""
    path, until = folder / f"rank-{rank}", time.monotonic() + 60
    while not (path.exists() and path.read_text().endswith("an-attempt")):
        assert time.monotonic() < until
        time.sleep(0.01)
    return path.read_text().split()


def wait_until_gone(process: int) -> None:
    until = time.monotonic() + 10
    while Path(f"/proc/{process}").exists() and "Z" not in Path(f"/proc/{process}/stat").read_text().split()[2]:
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_ranks_are_told(tmp_path: Path, device: str) -> None:
    """On CPUs they are forks of a process with one thread that has imported all; the attempt's token is in them."""
    code = """
tasks = len(list(Path("/proc/self/task").iterdir()))
told = ("rank", rank, "deepspeed" in sys.modules, tasks, Path("/proc/self/comm").read_text().strip(),
        b"an-attempt" in Path("/proc/self/environ").read_bytes(), sys.argv[1:], __name__)
os.write(1, (" ".join(map(str, told)) + "\\n").encode())  # in one piece, for both write at once
"""
    process = start(tmp_path, code, device)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    for rank in range(2):
        assert told(tmp_path, rank)[1:] == [str(rank), "2", "2", "127.0.0.1", "1234", "an-attempt"]
        name = f"rank {rank}" if device == "cpu" else "python"
        line = f"rank {rank} {device == 'cpu'} 1 {name} True {[str(tmp_path)]} __main__"
        assert line in output.splitlines() or device == "cuda"
    assert ("False" in output) == (device == "cuda")


@pytest.mark.parametrize(
    ("statuses", "status"),
    [([0, 0], 0), ([75, 75], 75), ([0, 75], 75), ([3, 1, 3], 1), ([3, 3], 3), ([75, 2], 2), ([0, -9, 3], 137),
     ([1, 2], 1)],
)  # fmt: skip
def test_whose_status_counts(statuses: list[int], status: int) -> None:
    """The first failure of a rank that did not end for another's sake."""
    assert local.status_of(statuses) == status


def test_a_signal_is_passed_on(tmp_path: Path) -> None:
    """None is lost that comes before the ranks are ready for it."""
    code = f"""
time.sleep(0.5)
signal.signal(signal.SIGTERM, lambda *_: sys.exit({int(ExitCode.PREEMPTED)}))
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
time.sleep(60)
"""
    process = start(tmp_path, code)
    for rank in range(2):
        told(tmp_path, rank)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == ExitCode.PREEMPTED


def test_no_rank_outlives_it(tmp_path: Path) -> None:
    """Killed, it takes the ranks along: the kernel sees to it."""
    process = start(tmp_path, "time.sleep(60)")
    ranks = [int(told(tmp_path, rank)[0]) for rank in range(2)]
    process.kill()
    process.wait()
    for rank in ranks:
        wait_until_gone(rank)


def test_a_rank_that_outlives_a_failure_is_killed(tmp_path: Path) -> None:
    impatient = ("-c", "import sys; from megachar.launching import local; local.LEAVE_SECONDS = 0.2; "
                       "sys.exit(local.main())")  # fmt: skip
    process = start(tmp_path, "sys.exit(1) if rank else time.sleep(60)", program=impatient)
    assert process.wait(20) == 1
    assert not Path(f"/proc/{told(tmp_path, 0)[0]}").exists()
