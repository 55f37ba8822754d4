"""Open MPI's mpirun."""

import os
import socket
import sys
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

from megachar.base.errors import PlatformError
from megachar.launching.hostfile import Host, read_hostfile
from megachar.launching.launchers.launcher import Launcher
from megachar.launching.network import addresses_for_others, free_port, is_this_machine
from megachar.launching.plan import DEFAULT_PORT, LaunchPlan


class OpenMpi(Launcher):
    """On this machine without a hostfile, else over ssh."""

    name = "openmpi"
    programs, programs_there = ("mpirun",), ("orted",)
    over_ssh = True
    exports = ("MASTER_ADDR", "MASTER_PORT")

    def hosts(self, hostfile: Path | None) -> tuple[Host, ...]:
        """Those of the hostfile, if there is one; see `Launcher`."""
        return () if hostfile is None else read_hostfile(hostfile)

    def command(self, plan: LaunchPlan, script: list[str]) -> list[str]:
        """See `Launcher`."""
        hosts = ",".join(f"{host.name}:{host.slots}" for host in plan.used_hosts())
        exported = (part for name in self.exported(plan) for part in ("-x", name))
        # Cores are not bound: a process of two would be held to one core.
        return ["mpirun", "-n", str(plan.topology.world_size), "--host", hosts, "--map-by", "slot", "--bind-to", "none",
                *exported, sys.executable, "-u", *script]  # fmt: skip

    def environment(self, plan: LaunchPlan) -> dict[str, str]:
        """See `Launcher`."""
        return {"MASTER_ADDR": plan.master_address, "MASTER_PORT": str(plan.master_port)}

    def problems(self) -> Iterable[tuple[str, str]]:
        """See `Launcher`."""
        allowed = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
        if os.geteuid() == 0 and any(os.environ.get(name) != "1" for name in allowed):
            problem = f"mpirun refuses to run as root; set {'=1 and '.join(allowed)}=1, or run as another user"
            yield "root", problem

    def probe(self, plan: LaunchPlan, host: Host, probe: list[str], timeout: float) -> list[str]:
        """See `Launcher`."""
        return probe if is_this_machine(host.name) else super().probe(plan, host, probe, timeout)

    def place(self, environment: Mapping[str, str]) -> dict[str, str]:
        """See `Launcher`."""
        if "OMPI_COMM_WORLD_RANK" not in environment:
            return {}
        return {
            "RANK": environment["OMPI_COMM_WORLD_RANK"],
            "LOCAL_RANK": environment["OMPI_COMM_WORLD_LOCAL_RANK"],
            "WORLD_SIZE": environment["OMPI_COMM_WORLD_SIZE"],
            "LOCAL_WORLD_SIZE": environment["OMPI_COMM_WORLD_LOCAL_SIZE"],
        }

    def meeting_point(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Of ranks on several hosts, by MPI where mpi4py is installed."""
        place = self.place(environment)
        if not place or place["LOCAL_WORLD_SIZE"] == place["WORLD_SIZE"] or find_spec("mpi4py") is None:
            return {}
        return _agree_over_mpi()


def _agree_over_mpi() -> dict[str, str]:
    """Rank 0's address and a free port of its, by a broadcast. MPI is not used for anything else."""
    import mpi4py

    mpi4py.rc.initialize = False
    from mpi4py import MPI

    MPI.Init()
    chosen: dict[str, str] | str = ""
    if MPI.COMM_WORLD.Get_rank() == 0:
        reachable = addresses_for_others()
        if len(reachable) == 1:
            chosen = {"MASTER_ADDR": next(iter(reachable.values())), "MASTER_PORT": str(free_port())}
        else:
            chosen = (
                f"{socket.gethostname()} has the interfaces {', '.join(reachable) or '(none)'} for the other hosts; "
                f"say which by -x MASTER_ADDR=ADDRESS -x MASTER_PORT={DEFAULT_PORT}"
            )
    chosen = MPI.COMM_WORLD.bcast(chosen)
    MPI.Finalize()
    if isinstance(chosen, str):
        raise PlatformError(chosen)
    return chosen
