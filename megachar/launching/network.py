"""Which of this machine's network interfaces leads where."""

import ipaddress
import socket

import psutil

from megachar.base.errors import PlatformError


def resolve(name: str) -> str:
    """The address of a host name, IPv4 where it has one.

    Raises:
        PlatformError: nobody here knows the name.
    """
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise PlatformError(
            f"{socket.gethostname()} does not know the host {name}: {error}; add it to /etc/hosts or DNS"
        ) from error
    addresses = [str(entry[4][0]) for entry in sorted(found, key=lambda entry: entry[0] != socket.AF_INET)]
    return addresses[0]


def is_loopback(address: str) -> bool:
    """Whether an address is a machine's own name for itself."""
    return ipaddress.ip_address(address.split("%")[0]).is_loopback


def interface_addresses() -> dict[str, list[str]]:
    """IPv4 and IPv6 addresses of every interface that is up and has one."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    addresses = {
        name: [entry.address for entry in entries if entry.family in (socket.AF_INET, socket.AF_INET6)]
        for name, entries in psutil.net_if_addrs().items()
        if name in up
    }
    return {name: found for name, found in addresses.items() if found}


def addresses_for_others() -> dict[str, str]:
    """Interfaces of this machine that are not its loopback, with the first address of each."""
    found = interface_addresses()
    return {name: own[0] for name, own in found.items() if not any(map(is_loopback, own))}


def own_address_to(target: str, family: socket.AddressFamily = socket.AF_INET) -> str:
    """The address from which this machine sends to a target; nothing is sent. OSError where no route leads there."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((target, 1))
        return str(probe.getsockname()[0])


def interface_to(address: str) -> str:
    """The interface through which this machine sends to an address, its own included; nothing is sent.

    Raises:
        PlatformError: no route leads there.
    """
    try:
        own = own_address_to(address, socket.AF_INET6 if ":" in address else socket.AF_INET)
    except OSError as error:
        raise PlatformError(
            f"{socket.gethostname()} has no route to {address}: {error}; see `ip route` there"
        ) from error
    for name, addresses in interface_addresses().items():
        if own in addresses or (is_loopback(own) and any(map(is_loopback, addresses))):
            return name
    raise PlatformError(
        f"no interface of {socket.gethostname()} that is up has its address {own}; see `ip address` there"
    )


def is_this_machine(name: str) -> bool:
    """Whether a host's name means this machine."""
    own = socket.gethostname()
    if name in ("localhost", own, own.split(".")[0]):
        return True
    try:
        address = resolve(name)
    except PlatformError:
        return False
    return is_loopback(address) or any(address in found for found in interface_addresses().values())


def free_port() -> int:
    """A TCP port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
