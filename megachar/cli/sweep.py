"""`megachar sweep`: all runs of a sweep, one after another, each started as `megachar launch` starts it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from megachar.base.files import describe
from megachar.base.tables import print_table
from megachar.cli.compare import show_results
from megachar.cli.hosts import Processes, Timeout
from megachar.cli.launch import claim_plan, ready, usable_hosts
from megachar.cli.shared.groups import spread
from megachar.config.sections.data import DataConfig
from megachar.data.blend import Blend
from megachar.families.counting import count_parameters
from megachar.launching.supervisor import Supervisor
from megachar.runs.preflight import check_data
from megachar.runs.sweep_folder import record_plan
from megachar.sweeps.progress import State, progress_of
from megachar.sweeps.results import read_results
from megachar.sweeps.running import RunEnd, run_sweep
from megachar.sweeps.sweep import SweepRun, load_sweep, plan_runs


@spread
def sweep(
    sweep: Annotated[str, typer.Argument(help="A sweep that ships with megachar, such as ablation, or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, for all runs")] = None,
    base: Annotated[
        str | None, typer.Option(help="The preset or YAML file that all runs start from; default: the sweep's own.")
    ] = None,
    *,
    processes: Processes,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the runs and how far each is, check the data, and stop.")
    ] = False,
    timeout: Timeout = 60,
    max_restarts: Annotated[
        int, typer.Option(min=0, help="Start a run again after as many failures in a row without a new checkpoint.")
    ] = 0,
) -> None:
    """Train all runs of a sweep; called again, it resumes where it was stopped."""
    loaded = load_sweep(sweep)
    runs = plan_runs(loaded, base, overrides or [])
    if dry_run:
        print_runs(loaded.name, runs, Console())
    opened: dict[DataConfig, Blend] = {}
    for run in runs:
        data = run.experiment.data
        opened[data] = check_data(run.experiment, opened.get(data))
        processes.plan(run.experiment, run.source, run.overrides).used_hosts()
    if dry_run:
        return

    folder = Path(runs[0].experiment.output)

    def start(run: SweepRun, resume: bool) -> RunEnd:
        plan = processes.plan(run.experiment, run.source, run.overrides, resume)
        with claim_plan(plan) as claim:
            plan = ready(plan, timeout)
            record_plan(folder, loaded.points, {run.name: run.own for run in runs})
            supervisor = Supervisor(plan, max_restarts, lambda plan: usable_hosts(plan, timeout), claim)
            return RunEnd(supervisor.run(), supervisor.asked_to_leave)

    end = run_sweep(runs, start, lambda text: typer.echo(f"megachar sweep: {text}"))
    try:
        show_results(read_results(folder, end.failed), folder, Console(highlight=False))
    except OSError as error:  # which is no reason for another status
        typer.echo(f"megachar sweep: the results cannot be shown: {describe(error)}", err=True)
    raise typer.Exit(end.status)


def print_runs(name: str, runs: Sequence[SweepRun], console: Console) -> None:
    """The table of a sweep's runs."""
    columns = (Column("run", no_wrap=True), Column("what differs", overflow="fold"),
               Column("parameters", justify="right"), Column("steps", justify="right"), Column("state"))  # fmt: skip
    table = Table(*columns, title=Text(f"{name}: {len(runs)} runs", style="italic"))
    for run in runs:
        experiment, progress = run.experiment, progress_of(run.experiment)
        parameters = sum(part.training for part in count_parameters(experiment.model, experiment.auxiliary))
        state = progress.state.value + (f", step {progress.step:,}" if progress.state is State.UNFINISHED else "")
        steps = f"{experiment.training.total_steps:,}"
        table.add_row(Text(run.name), Text("\n".join(run.own)), f"{parameters:,}", steps, state)
    print_table(table, console)
