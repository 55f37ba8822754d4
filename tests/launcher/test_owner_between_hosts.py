"""One owner of a run folder where several machines share a disk that has no locks, or keeps them to each machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from megachar.base.exit_codes import ExitCode
from megachar.runs.checkpoints.format import checkpoint_folders, step_of
from megachar.runs.folder import RunFolder
from megachar.runs.ownership import read_owner
from tests.launcher.commands import SMALL, steps_once
from tests.launcher.machines import Cluster, Machine

OWN = """
import fcntl, sys, time
from pathlib import Path
from megachar.base.errors import OwnershipError
from megachar.runs import ownership
from megachar.runs.folder import RunFolder
fcntl.flock = lambda *_: None
ownership.BEAT_SECONDS, ownership.SILENT_SECONDS = 0.2, 2.0
try:
    with ownership.OwnClaim(RunFolder(Path(sys.argv[1]))) as claim:
        print("owner", flush=True)
        while True:
            claim.check()
            time.sleep(0.05)
except OwnershipError as error:
    print(error, flush=True)
    sys.exit(2)
"""
LAUNCH = """
import fcntl
from megachar.cli import main
from megachar.runs import ownership
fcntl.flock = lambda *_: None
ownership.BEAT_SECONDS, ownership.SILENT_SECONDS = 0.2, 3.0
main()
"""
"""Of a run on a disk whose locks no other host sees."""


def start(machine: Machine, folder: RunFolder) -> subprocess.Popen[str]:
    return machine.start([sys.executable, "-c", OWN, str(folder.path)], stdout=subprocess.PIPE)


def said(process: subprocess.Popen[str]) -> str:
    """Its next line."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_an_owner_on_another_machine(fresh_cluster: Cluster, tmp_path: Path) -> None:
    """While it lives it keeps the run; one that is stopped loses it, and ends when it goes on; of a dead one the next
    takes over. At no moment are there two."""
    first, second, _ = fresh_cluster.machines
    folder = RunFolder(tmp_path / "run")
    owner = start(first, folder)
    assert said(owner) == "owner"
    late = start(second, folder)
    assert "is at work: process " in (message := said(late))
    assert " on node1, since " in message
    assert late.wait() == ExitCode.USER_ERROR

    held = [pid for entry in Path("/proc").glob("[0-9]*") if str(folder.path) in _command(pid := int(entry.name))]
    inner = next(pid for pid in held if pid != owner.pid)  # which is nsenter, and stops with it
    os.kill(inner, signal.SIGSTOP)
    successor = start(second, folder)
    assert said(successor) == "owner"
    owned = read_owner(folder)
    assert owned is not None
    assert owned.host == "node2"
    while owner.poll() is None:
        for pid in held:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        time.sleep(0.1)
    assert " on node2, since " in said(owner)
    assert owner.wait() == ExitCode.USER_ERROR
    assert successor.poll() is None

    second.kill_all()
    successor.wait()
    begun = time.monotonic()
    last = start(first, folder)
    assert said(last) == "owner"
    assert time.monotonic() - begun > 2
    first.kill_all()
    last.wait()


def test_a_host_that_comes_back(fresh_cluster: Cluster, corpus: Path, tmp_path: Path) -> None:
    """Cut off from the network and from the disk, where its processes hang; the run is taken over from another host,
    which trains it to its end. The first then goes on, finds that out, and writes no more."""
    first, second, _ = fresh_cluster.machines
    folder = RunFolder(tmp_path / "quickstart")
    command = [sys.executable, "-c", LAUNCH, "launch", *SMALL, f"data.path={corpus}", f"output={tmp_path}",
               "parallel.pipe=1", "training.total_steps=5000", "training.checkpoint_interval=20"]  # fmt: skip
    cut_off = first.start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_until(lambda: any(folder.checkpoints.glob("step-*")))
    first.do("pkill -STOP 'python|rank'")
    fresh_cluster.set_link(first, up=False)
    last = max(map(step_of, checkpoint_folders(folder))) + 10
    taken_over = second.run([*command, "--resume", f"training.total_steps={last}"])
    assert taken_over.returncode == ExitCode.DONE, taken_over.stdout + taken_over.stderr
    assert "looking for 3 s whether that is at work" in taken_over.stderr
    left = contents(folder)
    fresh_cluster.set_link(first, up=True)
    first.do("pkill -CONT 'python|rank'")
    cut_off.send_signal(signal.SIGCONT)  # nsenter, which had stopped with it
    output, _ = cut_off.communicate(timeout=60)
    assert cut_off.returncode == ExitCode.USER_ERROR, output
    assert f"OwnershipError: run {folder.path} is not this process's any more: its owner.json is gone" in output
    assert contents(folder) == left
    assert steps_once(folder) == list(range(1, last + 1))


def contents(folder: RunFolder) -> dict[Path, bytes]:
    """All files but the logs, and the secret of an attempt, which removes its own at its end."""
    return {path: path.read_bytes() for path in folder.path.rglob("*")
            if path.is_file() and path.suffix not in (".log", ".secret")}  # fmt: skip


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""
