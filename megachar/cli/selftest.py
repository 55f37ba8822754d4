"""`megachar selftest`: test the cluster with the layout of an experiment, started as `megachar launch` starts it."""

import os
import secrets
import signal
import subprocess
import sys
from dataclasses import replace
from typing import Annotated

import typer

from megachar.cli.hosts import Processes, choose_hosts, examined
from megachar.cli.shared.groups import spread
from megachar.config.loading import load_experiment
from megachar.launching.gpus import count_gpus
from megachar.launching.hostfile import Host
from megachar.launching.plan import SELFTEST_SCRIPT, LaunchPlan
from megachar.launching.processes import end_command
from megachar.launching.starting import command_of, launcher_of, prepare

DEFAULT_EXPERIMENT = "small"
TOKEN_VARIABLE = "MEGACHAR_SELFTEST"
"""By which all processes of the test are found at its end."""


@spread
def selftest(
    experiment: Annotated[
        str | None, typer.Argument(help="A preset or a YAML file; without one: a replica on every slot.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value")] = None,
    *,
    processes: Processes,
    timeout: Annotated[float, typer.Option(min=1, max=86_400, help="Seconds that every check may take.")] = 60,
    slow_factor: Annotated[
        float, typer.Option(min=1, help="A link so many times slower than the fastest of its kind is a problem.")
    ] = 5,
) -> None:
    """Test every collective, a tiny model and the speed of links on pipe x tensor x data processes."""
    settings = list(overrides or ())
    if experiment is not None and "=" in experiment:
        settings.insert(0, experiment)
        experiment = None
    hosts, _ = choose_hosts(processes.hostfile, processes.launcher)
    if experiment is None:
        experiment, settings = DEFAULT_EXPERIMENT, [*_replicas(hosts), *settings]
    loaded = load_experiment(experiment, settings)
    renamed = loaded.model_copy(update={"name": f"{loaded.name}.selftest"})
    arguments = ("--timeout", f"{timeout:g}", "--slow-factor", f"{slow_factor:g}")
    plan = replace(processes.plan(renamed, experiment, tuple(settings)), script=SELFTEST_SCRIPT, arguments=arguments)
    plan = examined(plan, timeout, "the self-test")
    raise typer.Exit(run(plan))


def run(plan: LaunchPlan) -> int:
    """Start the plan's command and wait for it; returns its exit status. No process of it is left, whatever happens."""
    token = secrets.token_hex(16)
    os.environ[TOKEN_VARIABLE] = token  # which the plan hands to other hosts
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    prepare(plan)
    typer.echo(f"megachar selftest: starting {plan.starting}", err=True)
    environment = {**os.environ, **launcher_of(plan).variables(plan)}
    process = subprocess.Popen(command_of(plan), env=environment, start_new_session=True)
    try:
        return process.wait()
    finally:
        end_command(process, token, plan)


def _replicas(hosts: tuple[Host, ...]) -> list[str]:
    """Settings that put a replica on every slot; on this machine on every GPU, or on two processes."""
    size = sum(host.slots for host in hosts) or count_gpus() or 2
    return ["parallel.pipe=1", "parallel.tensor=1", f"parallel.data={size}", "batch.micro_size=1",
            f"batch.global_size={size}"]  # fmt: skip
