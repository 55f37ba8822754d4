"""The processes of one attempt at a run, found by a token in their environment, on this machine and on others."""

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

SSH_SECONDS = 10
KILL = """for file in /proc/[0-9]*/environ; do
    grep -qa {} "$file" 2>/dev/null && number=${{file#/proc/}} && kill -9 "${{number%/environ}}"
done; :"""
"""For a shell that does not have the token in its own environment."""


def processes_with(token: str) -> Iterator[int]:
    """Numbers of this machine's processes that were started with `token` in a variable."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it is another user's, or has ended
            if token.encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                yield int(path.parent.name)


def kill_processes(token: str, hosts: Sequence[str]) -> list[str]:
    """Kill what is left of an attempt here and, by ssh, on `hosts`; returns the hosts that could not be reached."""
    command = KILL.format(shlex.quote(token))
    ssh = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={SSH_SECONDS}"]
    started = {host: subprocess.Popen([*ssh, host, command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                      stderr=subprocess.DEVNULL) for host in hosts}  # fmt: skip
    for number in processes_with(token):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    unreached = []
    for host, process in started.items():
        try:
            status = process.wait(2 * SSH_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        if status != 0:
            unreached.append(host)
    return unreached
