"""What torch.distributed wants to know of a rank, whichever launcher started it."""

import socket
from collections.abc import Mapping

from megachar.base.errors import PlatformError
from megachar.launching.launchers.launcher import Launcher
from megachar.launching.network import addresses_for_others, interface_to, is_loopback, resolve
from megachar.launching.plan import DEFAULT_PORT
from megachar.launching.starting import LAUNCHERS


def rank_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to set on top of `environment`, so that it says RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE,
    MASTER_ADDR, MASTER_PORT, and GLOO_SOCKET_IFNAME.

    DeepSpeed and torchrun set the first six; what Open MPI and Slurm say is put into their words. gloo would take the
    interface that the host's own name leads to, which on many machines is the loopback; it is told the one that leads
    to rank 0. What is set already stays, but for MASTER_ADDR where all ranks are on one machine: that is its loopback.

    Raises:
        PlatformError: rank 0 cannot be found, or no interface leads to it.
    """
    # Open MPI comes before Slurm: its ranks know of the allocation that they are in.
    launcher = next((found for found in LAUNCHERS.values() if found.place(environment)), None)
    place = {} if launcher is None or "RANK" in environment else launcher.place(environment)
    named = {**place, **_present(environment)}
    if int(named.get("WORLD_SIZE", "1")) == 1:
        return _new(named, environment)
    if "MASTER_ADDR" not in named or "MASTER_PORT" not in named:
        named = {**_meeting_point(named, environment, launcher), **named}
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


def _meeting_point(
    named: Mapping[str, str], environment: Mapping[str, str], launcher: Launcher | None
) -> dict[str, str]:
    """Where the ranks meet, where nobody has set it."""
    if launcher is not None and (found := launcher.meeting_point(environment)):
        return found
    if named.get("LOCAL_WORLD_SIZE") == named["WORLD_SIZE"]:
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(DEFAULT_PORT)}
    raise PlatformError(
        f"{named['WORLD_SIZE']} ranks were started on several hosts, and no MASTER_ADDR and MASTER_PORT say where to "
        f"meet; give them the address of the first host and a free port there (mpirun: -x MASTER_ADDR=10.0.0.1 -x "
        f"MASTER_PORT={DEFAULT_PORT}), or pip install megachar[mpi]"
    )


def _gloo_interface(named: Mapping[str, str]) -> str:
    address = resolve(named["MASTER_ADDR"])
    several_hosts = int(named.get("LOCAL_WORLD_SIZE", named["WORLD_SIZE"])) < int(named["WORLD_SIZE"])
    if not (several_hosts and is_loopback(address)):
        return interface_to(address)
    # The first host's own name often leads to its loopback, which the others cannot reach.
    others = list(addresses_for_others())
    if len(others) == 1:
        return others[0]
    raise PlatformError(
        f"MASTER_ADDR={named['MASTER_ADDR']} is the loopback address {address} on {socket.gethostname()}, whose "
        f"interfaces for the other hosts are: {', '.join(others) or 'none'}; give MASTER_ADDR as an address, or set "
        f"GLOO_SOCKET_IFNAME"
    )


def _new(named: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in named.items() if environment.get(name) != value}
