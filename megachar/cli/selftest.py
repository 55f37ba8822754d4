"""`megachar selftest`: test the cluster with the layout of an experiment, started as `megachar launch` starts it."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from megachar.cli.launch import choose_hosts, choose_node_rank, print_failures
from megachar.config.loading import load_experiment
from megachar.errors import PlatformError
from megachar.launching.hostfile import Host
from megachar.launching.network import free_port
from megachar.launching.plan import DEFAULT_PORT, SELFTEST_SCRIPT, Launcher, LaunchPlan
from megachar.launching.preflight import examine
from megachar.launching.probe import count_gpus
from megachar.launching.processes import kill_processes

DEFAULT_EXPERIMENT = "small"
TOKEN_VARIABLE = "MEGACHAR_SELFTEST"
"""By which all processes of the test are found at its end."""


def selftest(
    experiment: Annotated[
        str | None, typer.Argument(help="A preset or a YAML file; without one: a replica on every slot.")
    ] = None,
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
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that every check may take.")] = 60,
    slow_factor: Annotated[
        float, typer.Option(min=1, help="A link so many times slower than the fastest of its kind is a problem.")
    ] = 5,
) -> None:
    """Test every collective, a tiny model and the speed of links on pipe x tensor x data processes."""
    settings = list(overrides or ())
    if experiment is not None and "=" in experiment:
        settings.insert(0, experiment)
        experiment = None
    hosts, launcher = choose_hosts(hostfile, launcher)
    if experiment is None:
        experiment, settings = DEFAULT_EXPERIMENT, [*_replicas(hosts), *settings]
    loaded = load_experiment(experiment, settings)
    plan = LaunchPlan(
        loaded.model_copy(update={"name": f"{loaded.name}.selftest"}),
        experiment,
        tuple(settings),
        hosts,
        launcher,
        node_rank=choose_node_rank(hosts, launcher, node_rank),
        master_port=master_port or (DEFAULT_PORT if hosts else free_port()),
        script=SELFTEST_SCRIPT,
        arguments=("--timeout", f"{timeout:g}", "--slow-factor", f"{slow_factor:g}"),
    )
    plan, failures = examine(plan, timeout)
    if failures:
        print_failures(failures, Console(stderr=True))
        hosts_at_fault = ", ".join(dict.fromkeys(failure.host for failure in failures))
        raise PlatformError(f"the self-test cannot start on {hosts_at_fault}, see above; nothing was started")
    raise typer.Exit(run(plan))


def run(plan: LaunchPlan) -> int:
    """Start the plan's command and wait for it; returns its exit status. No process of it is left, whatever happens."""
    token = secrets.token_hex(16)
    os.environ[TOKEN_VARIABLE] = token  # which the plan hands to other hosts
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    plan.prepare()
    process = subprocess.Popen(plan.command(), env={**os.environ, **plan.environment()}, start_new_session=True)
    try:
        return process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        remote = plan.launcher in ("ssh", "openmpi")
        kill_processes(token, [host.name for host in plan.used_hosts()] if remote else [])


def _replicas(hosts: tuple[Host, ...]) -> list[str]:
    """Settings that put a replica on every slot; on this machine on every GPU, or on two processes."""
    size = sum(host.slots for host in hosts) or count_gpus() or 2
    return ["parallel.pipe=1", "parallel.tensor=1", f"parallel.data={size}", "batch.micro_size=1",
            f"batch.global_size={size}"]  # fmt: skip
