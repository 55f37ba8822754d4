"""What torch.distributed wants to know of a rank, whichever launcher started it."""

import socket
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec

from megachar.base.errors import PlatformError
from megachar.launching.hostfile import Host
from megachar.launching.network import free_port, interface_addresses, interface_to, is_loopback, resolve
from megachar.launching.plan import DEFAULT_PORT


def rank_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to set on top of `environment`, so that it says RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE,
    MASTER_ADDR, MASTER_PORT, and GLOO_SOCKET_IFNAME.

    DeepSpeed and torchrun set the first six; what Open MPI and Slurm say is put into their words. gloo would take the
    interface that the host's own name leads to, which on many machines is the loopback; it is told the one that leads
    to rank 0. What is set already stays, but for MASTER_ADDR where all ranks are on one machine: that is its loopback.

    Raises:
        PlatformError: rank 0 cannot be found, or no interface leads to it.
    """
    named = {**_from_launcher(environment), **_present(environment)}
    if int(named.get("WORLD_SIZE", "1")) == 1:
        return _new(named, environment)
    if "MASTER_ADDR" not in named or "MASTER_PORT" not in named:
        named = {**_meeting_point(named, environment), **named}
    if named.get("LOCAL_WORLD_SIZE") == named["WORLD_SIZE"]:
        named["MASTER_ADDR"] = "127.0.0.1"  # so that nobody elsewhere reaches the ranks
    if "GLOO_SOCKET_IFNAME" not in environment:
        named["GLOO_SOCKET_IFNAME"] = _gloo_interface(named)
    return _new(named, environment)


def _present(environment: Mapping[str, str]) -> dict[str, str]:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    present = {name: environment[name] for name in names if name in environment}
    if "LOCAL_SIZE" in environment:  # DeepSpeed's name for it
        present.setdefault("LOCAL_WORLD_SIZE", environment["LOCAL_SIZE"])
    return present


def _from_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """Ranks and sizes by Open MPI or Slurm; nothing where a launcher that sets RANK came in between."""
    if "RANK" in environment:
        return {}
    if "OMPI_COMM_WORLD_RANK" in environment:
        return {
            "RANK": environment["OMPI_COMM_WORLD_RANK"],
            "LOCAL_RANK": environment["OMPI_COMM_WORLD_LOCAL_RANK"],
            "WORLD_SIZE": environment["OMPI_COMM_WORLD_SIZE"],
            "LOCAL_WORLD_SIZE": environment["OMPI_COMM_WORLD_LOCAL_SIZE"],
        }
    # SLURM_PROCID alone is also set in the batch script itself, which is no rank.
    if "SLURM_STEP_NUM_TASKS" in environment and "SLURM_PROCID" in environment:
        node = int(environment["SLURM_NODEID"])
        return {
            "RANK": environment["SLURM_PROCID"],
            "LOCAL_RANK": environment["SLURM_LOCALID"],
            "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
            "LOCAL_WORLD_SIZE": str(expand_counts(environment["SLURM_STEP_TASKS_PER_NODE"])[node]),
        }
    return {}


def _meeting_point(named: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Where the ranks meet, where the launcher does not say."""
    if "SLURM_STEP_NODELIST" in environment and "OMPI_COMM_WORLD_RANK" not in environment:
        # Jobs that share a node must not share a port.
        port = DEFAULT_PORT + int(environment.get("SLURM_JOB_ID", "0")) % 1000
        return {"MASTER_ADDR": slurm_host_names(environment["SLURM_STEP_NODELIST"])[0], "MASTER_PORT": str(port)}
    if named.get("LOCAL_WORLD_SIZE") == named["WORLD_SIZE"]:
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(DEFAULT_PORT)}
    if "OMPI_COMM_WORLD_RANK" in environment and find_spec("mpi4py") is not None:
        return _agree_over_mpi()
    raise PlatformError(
        f"{named['WORLD_SIZE']} ranks were started on several hosts, and no MASTER_ADDR and MASTER_PORT say where to "
        f"meet; give them the address of the first host and a free port there (mpirun: -x MASTER_ADDR=10.0.0.1 -x "
        f"MASTER_PORT={DEFAULT_PORT}), or pip install megachar[mpi]"
    )


def _agree_over_mpi() -> dict[str, str]:
    """Rank 0's address and a free port of its, by a broadcast. MPI is not used for anything else."""
    import mpi4py

    mpi4py.rc.initialize = False
    from mpi4py import MPI

    MPI.Init()
    chosen: dict[str, str] | str = ""
    if MPI.COMM_WORLD.Get_rank() == 0:
        reachable = _addresses_for_others()
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


def _addresses_for_others() -> dict[str, str]:
    """Interfaces of this machine that are not its loopback, with the first address of each."""
    found = interface_addresses()
    return {name: own[0] for name, own in found.items() if not any(map(is_loopback, own))}


def _gloo_interface(named: Mapping[str, str]) -> str:
    address = resolve(named["MASTER_ADDR"])
    several_hosts = int(named.get("LOCAL_WORLD_SIZE", named["WORLD_SIZE"])) < int(named["WORLD_SIZE"])
    if not (several_hosts and is_loopback(address)):
        return interface_to(address)
    # The first host's own name often leads to its loopback, which the others cannot reach.
    others = list(_addresses_for_others())
    if len(others) == 1:
        return others[0]
    raise PlatformError(
        f"MASTER_ADDR={named['MASTER_ADDR']} is the loopback address {address} on {socket.gethostname()}, whose "
        f"interfaces for the other hosts are: {', '.join(others) or 'none'}; give MASTER_ADDR as an address, or set "
        f"GLOO_SOCKET_IFNAME"
    )


def slurm_hosts(environment: Mapping[str, str]) -> tuple[Host, ...]:
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
    names = slurm_host_names(environment["SLURM_JOB_NODELIST"])
    counts = expand_counts(environment["SLURM_TASKS_PER_NODE"])
    return tuple(Host(name, count) for name, count in zip(names, counts, strict=True))


def is_requeued(environment: Mapping[str, str]) -> bool:
    """Whether this is a job that Slurm has put back into the queue, and whose command it now runs once more."""
    return environment.get("SLURM_RESTART_COUNT", "0") != "0"


def slurm_host_names(nodelist: str) -> list[str]:
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


def _new(named: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in named.items() if environment.get(name) != value}
