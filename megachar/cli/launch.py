"""`megachar launch`: check everything that can be checked on every host, then start the processes."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from megachar.base.tables import print_table
from megachar.cli.hosts import Processes, Timeout, examined
from megachar.cli.shared.groups import spread
from megachar.launching.launchers.slurm import is_requeued
from megachar.launching.layout import layout_rows
from megachar.launching.plan import SLURM_SCRIPT, LaunchPlan
from megachar.launching.preflight import examine
from megachar.launching.starting import prepare, shell_command
from megachar.launching.supervisor import Supervisor
from megachar.runs.folder import run_folder
from megachar.runs.ownership import OwnClaim
from megachar.runs.preflight import check_data, check_run_folder, load_run
from megachar.training.early_stopping import is_finished

REQUEUED_SECONDS = 120.0
"""How long a requeued job waits for what is left of its start before: Slurm gives that 30 s to end by itself."""


def print_slurm_script(asked: bool) -> None:
    """Say where Slurm's script lies, which an installation keeps among its own files, and stop."""
    if asked:
        typer.echo(SLURM_SCRIPT)
        raise typer.Exit


@spread
def launch(
    experiment: Annotated[str, typer.Argument(help="a preset or a YAML file")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value")] = None,
    *,
    processes: Processes,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the run's newest checkpoint.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the layout, check every host, print the command; nothing is written."),
    ] = False,
    timeout: Timeout = 60,
    max_restarts: Annotated[
        int, typer.Option(min=0, help="Start again after as many failures in a row without a new checkpoint.")
    ] = 0,
    slurm_script: Annotated[
        bool,
        typer.Option(
            "--slurm-script", callback=print_slurm_script, is_eager=True, help="Print the path of the job for sbatch."
        ),
    ] = False,
) -> None:
    """Train an experiment on pipe x tensor x data processes."""
    loaded = load_run(experiment, overrides or [])
    check_data(loaded)
    requeued = is_requeued(os.environ)
    resume = resume or (requeued and run_folder(loaded).experiment_file.exists())
    plan = processes.plan(loaded, experiment, tuple(overrides or ()), resume)
    if dry_run:
        check_run_folder(loaded, resume)
        print_layout(plan, Console())
        typer.echo(shell_command(examined(plan, timeout, "the run")))
        return
    with claim_plan(plan, REQUEUED_SECONDS if requeued else 0.0) as claim:
        check_run_folder(loaded, resume)
        if resume and is_finished(plan.folder, loaded):
            typer.echo(f"run {plan.folder.path} is finished already; a higher training.total_steps trains it further")
            return
        plan = ready(plan, timeout)
        status = Supervisor(plan, max_restarts, lambda plan: usable_hosts(plan, timeout), claim).run()
    raise typer.Exit(status)


def claim_plan(plan: LaunchPlan, patience_seconds: float = 0.0) -> AbstractContextManager[OwnClaim | None]:
    """The run folder for this process; of supervisors that each start their own host, for the first host's.

    Another owner has `patience_seconds` to come to its end.

    Raises:
        OwnershipError: somebody else trains there.
        PlatformError: the folder cannot be written.
    """
    return OwnClaim(plan.folder, patience_seconds) if plan.node_rank == 0 else nullcontext()


def ready(plan: LaunchPlan, timeout: float) -> LaunchPlan:
    """The plan with its hosts' addresses, once they have passed the checks and its files are written."""
    plan = examined(plan, timeout, "the run")
    prepare(plan)
    typer.echo(shell_command(plan))
    return plan


def usable_hosts(plan: LaunchPlan, timeout: float) -> tuple[LaunchPlan, dict[str, str]]:
    """The plan with its hosts' addresses, and what is wrong by host."""
    plan, failures = examine(plan, timeout)
    return plan, {failure.host: f"{failure.check}: {failure.problem}" for failure in failures}


def print_layout(plan: LaunchPlan, console: Console) -> None:
    """The table of ranks."""
    parallel = plan.experiment.parallel
    title = f"pipe {parallel.pipe} x tensor {parallel.tensor} x data {parallel.data}"
    short = (Column(name, no_wrap=True) for name in ("rank", "replica", "stage", "tensor"))
    table = Table("host", "device", *short, "layers", title=title)
    previous = ""
    for row in layout_rows(plan):
        if previous not in ("", row.host):
            table.add_section()
        cells = (row.host, row.device, str(row.rank), row.replica, row.stage, row.tensor_part, row.layers)
        table.add_row(*(Text(cell) for cell in cells))
        previous = row.host
    print_table(table, console)
    spare = [host.name for host in plan.hosts if host.name not in {place.host for place in plan.ranks()}]
    if spare:
        console.print(f"not needed: {', '.join(spare)}", highlight=False)
