"""Slurm's srun, inside an allocation."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from megachar.base.errors import PlatformError
from megachar.launching.hostfile import Host
from megachar.launching.launchers.launcher import Launcher
from megachar.launching.plan import DEFAULT_PORT, LaunchPlan


class Slurm(Launcher):
    """The hosts are those of the allocation."""

    name = "slurm"
    programs = ("srun", "scontrol")

    def hosts(self, hostfile: Path | None) -> tuple[Host, ...]:
        """Those of the allocation; see `Launcher`."""
        if hostfile is not None:
            raise PlatformError(f"--hostfile {hostfile} with --launcher slurm: Slurm names the hosts; leave it out")
        return allocated_hosts(os.environ)

    def command(self, plan: LaunchPlan, script: list[str]) -> list[str]:
        """See `Launcher`."""
        # The order of the hosts is the plan's own: a block distribution goes by the cores that are free.
        return ["srun", "--ntasks", str(plan.topology.world_size), "--nodes", str(len(plan.used_hosts())),
                "--distribution", "arbitrary", "--kill-on-bad-exit=1", sys.executable, "-u", *script]  # fmt: skip

    def environment(self, plan: LaunchPlan) -> dict[str, str]:
        """See `Launcher`."""
        return {"MASTER_ADDR": plan.master_address, "MASTER_PORT": str(plan.master_port),
                "SLURM_HOSTFILE": str(self._hosts_file(plan))}  # fmt: skip

    def files(self, plan: LaunchPlan) -> dict[Path, str]:
        """The host of every rank."""
        return {self._hosts_file(plan): "".join(f"{place.host}\n" for place in plan.ranks())}

    def probe(self, plan: LaunchPlan, host: Host, probe: list[str], timeout: float) -> list[str]:
        """See `Launcher`."""
        return ["srun", "--nodes=1", "--ntasks=1", "--overlap", "--nodelist", host.name, *probe]

    def place(self, environment: Mapping[str, str]) -> dict[str, str]:
        """See `Launcher`."""
        # SLURM_PROCID alone is also set in the batch script itself, which is no rank.
        if not {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID"} <= environment.keys():
            return {}
        return {
            "RANK": environment["SLURM_PROCID"],
            "LOCAL_RANK": environment["SLURM_LOCALID"],
            "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
            "LOCAL_WORLD_SIZE": str(
                expand_counts(environment["SLURM_STEP_TASKS_PER_NODE"])[int(environment["SLURM_NODEID"])]
            ),
        }

    def meeting_point(self, environment: Mapping[str, str]) -> dict[str, str]:
        """On the first host of the step, at a port that jobs which share a node do not share."""
        if "SLURM_STEP_NODELIST" not in environment:
            return {}
        port = DEFAULT_PORT + int(environment.get("SLURM_JOB_ID", "0")) % 1000
        return {"MASTER_ADDR": host_names(environment["SLURM_STEP_NODELIST"])[0], "MASTER_PORT": str(port)}

    def _hosts_file(self, plan: LaunchPlan) -> Path:
        return plan.folder.launch.absolute() / "slurm_hosts"


def allocated_hosts(environment: Mapping[str, str]) -> tuple[Host, ...]:
    """The hosts of the Slurm allocation this process runs in, with the tasks it allows on each.

    Raises:
        PlatformError: it runs in none, or the allocation does not say how many tasks a host takes.
    """
    for name in ("SLURM_JOB_NODELIST", "SLURM_TASKS_PER_NODE"):
        if name not in environment:
            raise PlatformError(
                f"--launcher slurm needs an allocation of Slurm, and {name} is not set here; submit the job with "
                f'sbatch "$(megachar launch --slurm-script)" EXPERIMENT ..., or start in salloc with --ntasks-per-node'
            )
    names = host_names(environment["SLURM_JOB_NODELIST"])
    counts = expand_counts(environment["SLURM_TASKS_PER_NODE"])
    return tuple(Host(name, count) for name, count in zip(names, counts, strict=True))


def is_requeued(environment: Mapping[str, str]) -> bool:
    """Whether this is a job that Slurm has put back into the queue, and whose command it now runs once more."""
    return environment.get("SLURM_RESTART_COUNT", "0") != "0"


def host_names(nodelist: str) -> list[str]:
    """`node[1-3]` -> node1, node2, node3, as Slurm's scontrol expands it."""
    try:
        done = subprocess.run(["scontrol", "show", "hostnames", nodelist], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PlatformError(f"`scontrol show hostnames {nodelist}` failed: {error}; set MASTER_ADDR and MASTER_PORT"
                            ) from error  # fmt: skip
    return done.stdout.split()


def expand_counts(text: str) -> list[int]:
    """Slurm's `2(x3),1` -> 2, 2, 2, 1."""
    counts: list[int] = []
    for part in text.split(","):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or 1)
    return counts
