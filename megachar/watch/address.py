"""Where a hub listens."""

import contextlib
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from megachar.base.errors import PlatformError

TRIES = 20
"""For a port that is free at all addresses."""


@dataclass(frozen=True)
class HubAddress:
    """Where to reach a hub."""

    addresses: tuple[str, ...]
    """Of its host; one of them answers."""
    port: int
    attempt: str
    """Name of the secret by which the two know each other."""
    machine: str = ""
    """Where it is a rank's thread: `machine_name` of that rank."""
    pid: int | None = None
    """Where it is a rank's thread: that process."""

    def __str__(self) -> str:
        """For the environment of a supervised rank, in characters that no launcher has to quote."""
        return f"{','.join(self.addresses)}:{self.port}/{self.attempt}"

    @staticmethod
    def parse(text: str) -> "HubAddress":
        """The inverse of `str`."""
        addresses, _, rest = text.rpartition(":")
        port, _, attempt = rest.partition("/")
        return HubAddress(tuple(addresses.split(",")), int(port), attempt)


def listen(addresses: Sequence[str]) -> list[socket.socket]:
    """Sockets that listen at these IPv4 addresses, at one port that the system picks.

    Raises:
        PlatformError: there is no such port, or none of the addresses is this machine's.
    """
    errors: list[str] = []
    for _ in range(TRIES):
        sockets: list[socket.socket] = []
        try:
            for address in addresses:
                port = sockets[0].getsockname()[1] if sockets else 0
                sockets.append(socket.create_server((address, port), backlog=1024))
        except OSError as error:
            errors.append(f"{address}: {error.strerror}")
            for one in sockets:
                one.close()
        else:
            return sockets
    raise PlatformError(f"{socket.gethostname()} cannot listen for its ranks at {', '.join(addresses)}: {errors[-1]}")


def addresses_of_ranks() -> tuple[str, ...]:
    """Where the other ranks reach this one: at the interface that gloo was told, else at MASTER_ADDR."""
    interfaces = psutil.net_if_addrs()
    for name in os.environ.get("GLOO_SOCKET_IFNAME", "").split(","):
        own = tuple(entry.address for entry in interfaces.get(name, ()) if entry.family == socket.AF_INET)
        if own:
            return own
    with contextlib.suppress(OSError):
        return (socket.gethostbyname(os.environ.get("MASTER_ADDR", "127.0.0.1")),)
    return ("127.0.0.1",)
