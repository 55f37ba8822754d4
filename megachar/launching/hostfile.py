"""Hostfiles as DeepSpeed and Open MPI write them: a host and its number of processes a line, `node1 slots=8`."""

import re
from dataclasses import dataclass
from pathlib import Path

from megachar.base.errors import PlatformError

LINE = re.compile(r"(?P<name>\S+)\s+slots=(?P<slots>\d+)\s*(#.*)?")
THIS_MACHINE = "localhost"
"""Its name where there is no hostfile."""
NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.:-]*[A-Za-z0-9_])?")


@dataclass(frozen=True)
class Host:
    """A machine of the run."""

    name: str
    """What ssh and the other hosts call it."""
    slots: int
    """Processes it can take: its GPUs, or as many as you like on CPUs."""


def read_hostfile(path: Path) -> tuple[Host, ...]:
    """The hosts of a hostfile, in its order; empty lines and those that start with # are skipped.

    Raises:
        PlatformError: the file is missing or names no host, or a line is not `HOST slots=NUMBER`, has no slots, or
            names a host again.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PlatformError(
            f"hostfile {path} cannot be read: {error}; each line of one reads: HOST slots=GPUS"
        ) from error
    hosts: dict[str, Host] = {}
    seen_at: dict[str, int] = {}
    for number, text in enumerate(lines, start=1):
        line = text.strip()
        if not line or line.startswith("#"):
            continue
        match, where = LINE.fullmatch(line), f"hostfile {path}, line {number}"
        if match is None or not NAME.fullmatch(match["name"]):
            raise PlatformError(f"{where}: {line!r} is not of the form HOST slots=NUMBER, such as: node1 slots=8")
        name, slots = match["name"], int(match["slots"])
        if slots == 0:
            raise PlatformError(f"{where}: {name} has 0 slots; give it 1 or more, or take the line out")
        if name in hosts:
            raise PlatformError(f"{where}: {name} was named in line {seen_at[name]} already; keep one of the two lines")
        hosts[name], seen_at[name] = Host(name, slots), number
    if not hosts:
        raise PlatformError(f"hostfile {path} names no host; each line of one reads: HOST slots=GPUS")
    return tuple(hosts.values())


def render_hostfile(hosts: tuple[Host, ...]) -> str:
    """The text of a hostfile that names these hosts."""
    return "".join(f"{host.name} slots={host.slots}\n" for host in hosts)
