"""One owner of a run folder where several machines share a disk that has no locks, or keeps them to each machine."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from megachar.exit_codes import ExitCode
from megachar.training.ownership import read_owner
from megachar.training.run_folder import RunFolder
from tests.launcher.machines import Cluster, Machine

OWN = """
import fcntl, sys, time
from pathlib import Path
from megachar.errors import OwnershipError
from megachar.training import ownership
from megachar.training.run_folder import RunFolder
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


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""
