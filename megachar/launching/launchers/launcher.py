"""What there is to know of a launcher: how it starts a plan's ranks, and what it tells them. Each is a file here."""

import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from megachar.base.errors import PlatformError
from megachar.launching.hostfile import Host, read_hostfile
from megachar.launching.plan import LaunchPlan

SSH_SECONDS = 10
EXPORTED = ("CUDA_DEVICE_MAX_CONNECTIONS", "DS_ACCELERATOR", "FI_", "GLOO_", "LD_LIBRARY_PATH", "MEGACHAR_", "MKL_",
            "NCCL_", "OMP_", "PYTHONPATH", "TORCH_", "UCX_")  # fmt: skip
"""Beginnings of the names of environment variables that follow the run to its hosts."""


class Launcher:
    """Starts the ranks of a plan: one command, with variables and files that it needs."""

    name: ClassVar[str]
    """By which `--launcher` asks for it."""
    programs: ClassVar[tuple[str, ...]] = ()
    """What must be installed where the run is launched."""
    programs_there: ClassVar[tuple[str, ...]] = ()
    """What must be installed on every host."""
    starts_one_host: ClassVar[bool] = False
    """Whether its command starts the ranks of this host alone, so that the user gives it on every host."""
    over_ssh: ClassVar[bool] = False
    """Whether ssh leads to the hosts, by which they are asked, and what is left of a run there is ended."""
    holds_signals: ClassVar[bool] = False
    """Whether signals must wait until its command is ready for them."""
    exports: ClassVar[tuple[str, ...]] = ()
    """Further variables that follow the run to its hosts."""

    def hosts(self, hostfile: Path | None) -> tuple[Host, ...]:
        """The hosts of a run; none for this machine alone.

        Raises:
            PlatformError: the hostfile is wrong, or missing, or none is wanted.
        """
        if hostfile is None:
            raise PlatformError(f"--launcher {self.name} needs the hosts of a hostfile; name it with --hostfile")
        return read_hostfile(hostfile)

    def command(self, plan: LaunchPlan, script: list[str]) -> list[str]:
        """What starts every rank, or those of this host, with a script of Python and its arguments."""
        raise NotImplementedError

    def environment(self, plan: LaunchPlan) -> dict[str, str]:
        """Variables to set for the command, on top of this process's own."""
        return {}

    def files(self, plan: LaunchPlan) -> dict[Path, str]:
        """What the command reads in the run folder: paths and texts."""
        return {}

    def problems(self) -> Iterable[tuple[str, str]]:
        """What keeps it from starting on the machine that launches: names of checks, and what is wrong."""
        return ()

    def probe(self, plan: LaunchPlan, host: Host, probe: list[str], timeout: float) -> list[str]:
        """The command that starts a probe on a host."""
        if not self.over_ssh or not plan.hosts:
            return probe
        variables = [f"{name}={value}" for name, value in self.exported(plan).items()]
        seconds = max(1, min(SSH_SECONDS, int(timeout / 2)))  # so that ssh's own word comes before the time is over
        remote = f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(['env', *variables, *probe])}"
        return [*ssh(seconds), host.name, remote]

    def exported(self, plan: LaunchPlan) -> dict[str, str]:
        """Variables that follow the run to its hosts."""
        variables = {**os.environ, **self.variables(plan)}
        own = {name: value for name, value in variables.items() if name.startswith(EXPORTED) or name in self.exports}
        return dict(sorted(own.items()))

    def variables(self, plan: LaunchPlan) -> dict[str, str]:
        """All variables to set for the command."""
        # Or DeepSpeed warns on every process that it found no GPU.
        cpu = {"DS_ACCELERATOR": "cpu"} if plan.experiment.device == "cpu" else {}
        return cpu | self.environment(plan)

    def place(self, environment: Mapping[str, str]) -> dict[str, str]:
        """RANK, LOCAL_RANK, WORLD_SIZE and LOCAL_WORLD_SIZE of a rank, if this launcher says them in words of its own.

        Empty where it has not started the rank.
        """
        return {}

    def meeting_point(self, environment: Mapping[str, str]) -> dict[str, str]:
        """MASTER_ADDR and MASTER_PORT for a rank, where they are not set; empty where it has not started the rank."""
        return {}


def ssh(timeout_seconds: int) -> list[str]:
    """The beginning of a command on another host."""
    return ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={timeout_seconds}"]
