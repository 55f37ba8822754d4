"""`megachar launch`: check everything that can be checked on every host, then start the processes."""

import os
import socket
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from megachar.config.loading import load_experiment
from megachar.errors import PlatformError
from megachar.launching.hostfile import Host, read_hostfile
from megachar.launching.layout import layout_rows
from megachar.launching.network import free_port, is_this_machine
from megachar.launching.plan import DEFAULT_PORT, Launcher, LaunchPlan, shell_command
from megachar.launching.preflight import examine
from megachar.launching.probe import Failure
from megachar.launching.ranks import slurm_hosts
from megachar.launching.supervisor import supervise
from megachar.training.preflight import check_data, check_run_folder


def launch(
    experiment: Annotated[str, typer.Argument(help="a preset or a YAML file")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value")] = None,
    hostfile: Annotated[
        Path | None, typer.Option(help="Hosts, one `HOST slots=GPUS` a line; without one: this machine.")
    ] = None,
    launcher: Annotated[
        Launcher | None,
        typer.Option(help="What starts the ranks; default: ssh with a hostfile, local without."),
    ] = None,
    node_rank: Annotated[
        int | None,
        typer.Option(help="With no_ssh: which line of the hostfile this machine is, from 0; default: by name."),
    ] = None,
    master_port: Annotated[int | None, typer.Option(help="Free port of the first host; default: 29500.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's newest checkpoint.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the layout, check every host, print the command, and stop.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds in which every host must answer the checks.")] = 60,
    max_restarts: Annotated[
        int, typer.Option(min=0, help="Start again after as many failures in a row without a new checkpoint.")
    ] = 0,
) -> None:
    """Train an experiment on pipe x tensor x data processes."""
    loaded = load_experiment(experiment, overrides or [])
    check_data(loaded)
    check_run_folder(loaded, resume)
    hosts, launcher = choose_hosts(hostfile, launcher)
    plan = LaunchPlan(
        loaded,
        experiment,
        tuple(overrides or ()),
        hosts,
        launcher,
        resume,
        node_rank=choose_node_rank(hosts, launcher, node_rank),
        master_port=master_port or (DEFAULT_PORT if hosts else free_port()),
    )
    console = Console()
    if dry_run:
        print_layout(plan, console)
    plan, failures = examine(plan, timeout)
    if failures:
        print_failures(failures, Console(stderr=True))
        hosts_at_fault = ", ".join(dict.fromkeys(failure.host for failure in failures))
        raise PlatformError(f"the run cannot start on {hosts_at_fault}, see above; nothing was started")
    plan.prepare()
    typer.echo(shell_command(plan))
    if not dry_run:
        raise typer.Exit(supervise(plan, max_restarts, lambda plan: usable_hosts(plan, timeout)))


def usable_hosts(plan: LaunchPlan, timeout: float) -> tuple[LaunchPlan, dict[str, str]]:
    """The plan with its hosts' addresses, and what is wrong by host."""
    plan, failures = examine(plan, timeout)
    return plan, {failure.host: f"{failure.check}: {failure.problem}" for failure in failures}


def choose_hosts(hostfile: Path | None, launcher: Launcher | None) -> tuple[tuple[Host, ...], Launcher]:
    """The hosts that were asked for, none for this machine alone, and the launcher.

    Raises:
        PlatformError: the hostfile is wrong, or launcher and hostfile do not fit.
    """
    if launcher == "slurm":
        if hostfile is not None:
            raise PlatformError(f"--hostfile {hostfile} with --launcher slurm: Slurm names the hosts; leave it out")
        return slurm_hosts(os.environ), launcher
    if hostfile is None:
        if launcher in ("ssh", "no_ssh"):
            raise PlatformError(f"--launcher {launcher} needs the hosts of a hostfile; name it with --hostfile")
        return (), launcher or "local"
    if launcher == "local":
        raise PlatformError(f"--hostfile {hostfile} with --launcher local, which is this machine; leave one out")
    return read_hostfile(hostfile), launcher or "ssh"


def choose_node_rank(hosts: tuple[Host, ...], launcher: Launcher, node_rank: int | None) -> int:
    """With no_ssh, which of the hosts this machine is.

    Raises:
        PlatformError: it is none of them, or its number is not one of theirs, or none is wanted.
    """
    if launcher != "no_ssh":
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


def print_layout(plan: LaunchPlan, console: Console) -> None:
    """The table of ranks."""
    parallel = plan.experiment.parallel
    title = f"pipe {parallel.pipe} x tensor {parallel.tensor} x data {parallel.data}"
    table = Table("host", "device", "rank", "replica", "stage", "tensor part", "layers", title=title)
    previous = ""
    for row in layout_rows(plan):
        if previous not in ("", row.host):
            table.add_section()
        cells = (row.host, row.device, str(row.rank), row.replica, row.stage, row.tensor_part, row.layers)
        table.add_row(*(Text(cell) for cell in cells))
        previous = row.host
    console.print(table)
    spare = [host.name for host in plan.hosts if host.name not in {place.host for place in plan.ranks()}]
    if spare:
        console.print(f"not needed: {', '.join(spare)}", highlight=False)


def print_failures(failures: list[Failure], console: Console) -> None:
    """The table of what is wrong where."""
    table = Table("host", "check", "what is wrong", show_lines=True)
    for failure in failures:
        table.add_row(Text(failure.host), Text(failure.check), Text(failure.problem))
    console.print(table)
