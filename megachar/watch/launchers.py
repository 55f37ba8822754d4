"""The processes that started this one, as far as they belong to a launcher; when one is gone, nobody waits for us."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

MODULES = (
    "megachar.launching.local",
    "deepspeed.launcher.runner",
    "deepspeed.launcher.launch",
    "torch.distributed.run",
)
PROGRAMS = ("deepspeed", "torchrun", "mpirun", "mpiexec", "orterun", "orted", "prte", "prted", "srun", "slurmstepd")
MARKS = ("MEGACHAR_HUB", "MEGACHAR_ATTEMPT", "TORCHELASTIC_RUN_ID", "PMIX_NAMESPACE", "SLURM_JOB_ID", "SLURM_STEP_ID",
         "WORLD_SIZE", "MASTER_PORT")  # fmt: skip
"""Variables that all ranks of a run are started with, alike, as far as their launcher sets them."""
SSH_SERVERS = ("sshd", "sshd-session")


def find_launchers() -> list[psutil.Process]:
    """Ancestors of this process that are launchers.

    A shell or terminal above them is none, so that a run started with nohup outlives its session. On a host that a
    launcher reached by ssh (DeepSpeed's per-node launcher without its runner above it), the server of that connection
    is one: it goes when the other end does.
    """
    ancestors = psutil.Process().parents()
    launchers = [process for process in ancestors if _launcher(process)]
    if launchers and "deepspeed.launcher.launch" in _command(launchers[-1]):
        above = ancestors[ancestors.index(launchers[-1]) + 1 :]
        launchers += [process for process in above if _name(process) in SSH_SERVERS][:1]
    return launchers


def is_of_this_run(number: int) -> bool:
    """Whether what started this process, by the marks it left in the environment, has started that one too.

    A number that a message names may be another program's by now, or never was a rank's.
    """
    try:
        own, other = psutil.Process().environ(), psutil.Process(number).environ()
    except (psutil.Error, OSError):
        return False
    marks = [name for name in MARKS if name in own]
    return bool(marks) and all(other.get(name) == own[name] for name in marks)


def is_gone(process: psutil.Process) -> bool:
    """Whether a process has ended, be it still listed."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def describe(process: psutil.Process) -> str:
    """Name and number, also of one that has ended."""
    return f"launcher {_name(process) or 'process'} ({process.pid})"


def _launcher(process: psutil.Process) -> bool:
    command = _command(process)
    return _name(process) in PROGRAMS or any(
        word in MODULES or Path(word).name in PROGRAMS for word in command[:4] if not word.startswith("--")
    ) or _is_megachar_launch(command)  # fmt: skip


def _is_megachar_launch(command: list[str]) -> bool:
    return any(Path(word).name == "megachar" and "launch" in command[i + 1 : i + 2] for i, word in enumerate(command))


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return process.name()
    return ""


def abort(numbers: Iterable[int]) -> None:
    """Give processes a second to end by themselves, one after being woken to write their stacks, then kill them.

    What does not belong to this run is left alone.
    """
    left = []
    for number in filter(is_of_this_run, set(numbers) - {os.getpid()}):
        with contextlib.suppress(psutil.NoSuchProcess):
            left.append(psutil.Process(number))
    for what in ((), (signal.SIGCONT, signal.SIGABRT), (signal.SIGKILL,)):
        for process in left:
            for one in what:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(one)
        until = time.monotonic() + 1
        while (left := [process for process in left if not is_gone(process)]) and time.monotonic() < until:
            time.sleep(0.02)
