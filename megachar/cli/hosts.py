"""Which hosts and what starts the ranks: options and refusals of the commands that start processes."""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from megachar.base.errors import PlatformError
from megachar.base.tables import print_table
from megachar.cli.shared.groups import option
from megachar.config.experiment import Experiment
from megachar.launching.hostfile import Host
from megachar.launching.network import free_port, is_this_machine
from megachar.launching.plan import DEFAULT_PORT, LaunchPlan
from megachar.launching.preflight import examine
from megachar.launching.probe import Failure
from megachar.launching.starting import LAUNCHERS

Timeout = Annotated[float, typer.Option(min=1, max=86_400, help="Seconds in which every host must answer the checks.")]

SHOWN_HOSTS = 4
"""More are counted, not named."""


@dataclass(frozen=True)
class Processes:
    """What starts the ranks, and where, as the options say."""

    hostfile: Path | None = option(None, "Hosts, one `HOST slots=GPUS` a line; default: this machine.")
    launcher: str | None = option(
        None,
        "What starts the ranks; default: ssh with a hostfile, local without.",
        metavar=f"<{'|'.join(LAUNCHERS)}>",
    )
    node_rank: int | None = option(
        None, "With no_ssh: which line of the hostfile this machine is, from 0; default: by name."
    )
    master_port: int | None = option(None, "Free port of the first host; default: 29500.", min=1, max=65_535)

    def plan(self, experiment: Experiment, source: str, overrides: tuple[str, ...], resume: bool = False) -> LaunchPlan:
        """The plan of a run; `PlatformError` where the options are wrong or do not fit each other."""
        hosts, launcher = choose_hosts(self.hostfile, self.launcher)
        rank = choose_node_rank(hosts, launcher, self.node_rank)
        port = self.master_port or (DEFAULT_PORT if hosts else free_port())
        return LaunchPlan(experiment, source, overrides, hosts, launcher, resume, node_rank=rank, master_port=port)


def choose_hosts(hostfile: Path | None, launcher: str | None) -> tuple[tuple[Host, ...], str]:
    """The hosts that were asked for, none for this machine alone, and the launcher.

    Raises:
        PlatformError: the launcher is unknown, the hostfile is wrong, or the two do not fit.
    """
    launcher = launcher or ("local" if hostfile is None else "ssh")
    if launcher not in LAUNCHERS:
        raise PlatformError(f"--launcher {launcher} is unknown; take one of {', '.join(LAUNCHERS)}")
    return LAUNCHERS[launcher].hosts(hostfile), launcher


def choose_node_rank(hosts: tuple[Host, ...], launcher: str, node_rank: int | None) -> int:
    """With no_ssh, which of the hosts this machine is.

    Raises:
        PlatformError: it is none of them, or its number is not one of theirs, or none is wanted.
    """
    if not LAUNCHERS[launcher].starts_one_host:
        if node_rank is not None:
            raise PlatformError(f"--node-rank {node_rank} belongs to --launcher no_ssh; leave it out")
        return 0
    if node_rank is None:
        own = [number for number, host in enumerate(hosts) if is_this_machine(host.name)]
        if len(own) != 1:
            names = ", ".join(host.name for host in hosts)
            raise PlatformError(f"{socket.gethostname()} is not one of {names} by name; say which with --node-rank")
        return own[0]
    if not 0 <= node_rank < len(hosts):
        raise PlatformError(f"--node-rank {node_rank}: the hostfile's hosts have the numbers 0 to {len(hosts) - 1}")
    return node_rank


def examined(plan: LaunchPlan, timeout: float, what: str) -> LaunchPlan:
    """The plan with its hosts' addresses, once every host has passed the checks.

    Raises:
        PlatformError: some have not; `what`, such as "the run", cannot start. The table of failures is printed.
    """
    names = [host.name for host in plan.hosts]
    where = "this machine" if not names else ", ".join(names) if len(names) <= SHOWN_HOSTS else f"{len(names)} hosts"
    typer.echo(f"megachar: checking {where}", err=True)
    plan, failures = examine(plan, timeout)
    if failures:
        print_failures(failures, Console(stderr=True))
        hosts_at_fault = ", ".join(dict.fromkeys(failure.host for failure in failures))
        raise PlatformError(f"{what} cannot start on {hosts_at_fault}, see above; nothing was started")
    return plan


def print_failures(failures: list[Failure], console: Console) -> None:
    """The table of what is wrong where."""
    table = Table("host", "check", "what is wrong", show_lines=True)
    for failure in failures:
        table.add_row(Text(failure.host), Text(failure.check), Text(failure.problem))
    print_table(table, console)
