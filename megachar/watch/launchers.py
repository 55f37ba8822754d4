"""The processes that started this one, as far as they belong to a launcher; when one is gone, nobody waits for us."""

import contextlib
from pathlib import Path

import psutil

MODULES = (
    "megachar.launching.local",
    "deepspeed.launcher.runner",
    "deepspeed.launcher.launch",
    "torch.distributed.run",
)
PROGRAMS = ("deepspeed", "torchrun", "mpirun", "mpiexec", "orterun", "orted", "prte", "prted", "srun", "slurmstepd")
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
