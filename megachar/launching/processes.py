"""The processes of one attempt at a run, found by a token in their environment, on this machine and on others."""

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from megachar.launching.plan import LaunchPlan

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


def signal_ranks(token: str, number: signal.Signals) -> None:
    """Send a signal to the ranks among this machine's processes with `token`, and not to their launchers."""
    for process in processes_with(token):
        with contextlib.suppress(OSError):
            if b"\0RANK=" in Path(f"/proc/{process}/environ").read_bytes():
                os.kill(process, number)


def end_command(process: "subprocess.Popen[bytes]", token: str, plan: LaunchPlan) -> None:
    """Kill what is left of a plan's command, which was started as a session of its own with `token` in a variable.

    Also on the plan's hosts where ssh leads to them; those that do not answer are left alone.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    remote = plan.used_hosts() if plan.launcher in ("ssh", "openmpi") else ()
    command = KILL.format(shlex.quote(token))
    ssh = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={SSH_SECONDS}"]
    started = [subprocess.Popen([*ssh, host.name, command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL) for host in remote]  # fmt: skip
    for number in processes_with(token):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    for killer in started:
        try:
            killer.wait(2 * SSH_SECONDS)
        except subprocess.TimeoutExpired:
            killer.kill()
            killer.wait()
