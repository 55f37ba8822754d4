"""A plan's start: the command of its launcher, with the variables and the files that this names."""

import shlex
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Final

from megachar.base.discovery import classes_in, modules_in
from megachar.base.errors import PlatformError
from megachar.base.files import atomic_write, json_text
from megachar.config.loading import save_experiment
from megachar.launching.hostfile import render_hostfile
from megachar.launching.launchers.launcher import Launcher
from megachar.launching.plan import LaunchPlan

LAUNCHERS: Final[dict[str, Launcher]] = {
    found.name: found() for found in classes_in(modules_in("megachar.launching.launchers"), Launcher)
}
"""By name, in alphabetical order."""


def launcher_of(plan: LaunchPlan) -> Launcher:
    """What starts the plan."""
    return LAUNCHERS[plan.launcher]


def command_of(plan: LaunchPlan) -> list[str]:
    """The command that starts every rank, or those of this host.

    Raises:
        PlatformError: the hosts have too few slots, or a path cannot be passed to them.
    """
    resume = ["--resume"] if plan.resume else []
    return launcher_of(plan).command(plan, [str(plan.script), str(plan.experiment_file), *resume, *plan.arguments])


def shell_command(plan: LaunchPlan) -> str:
    """The plan's command with its variables, as a shell takes it."""
    variables = (f"{name}={shlex.quote(value)}" for name, value in launcher_of(plan).variables(plan).items())
    return " ".join((*variables, shlex.join(command_of(plan))))


def prepare(plan: LaunchPlan) -> None:
    """Write the files that the command and its variables name into the run folder. Call it before each start.

    Where the user starts every host, all write, and read, the same files.

    Raises:
        PlatformError: the folder cannot be written.
    """
    folder, launcher = plan.folder.launch, launcher_of(plan)
    texts = launcher.files(plan)
    if plan.hosts:
        exported = "".join(f"{name}={value}\n" for name, value in launcher.exported(plan).items())
        texts |= {plan.hostfile: render_hostfile(plan.used_hosts()), plan.environment_file: exported}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_experiment(plan.experiment, plan.experiment_file)
        for path, text in texts.items():
            with atomic_write(path) as part:
                part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise PlatformError(f"{folder} cannot be written: {error}; free space, or set output=FOLDER") from error


def record_start(plan: LaunchPlan) -> None:
    """Add the hosts, the layout and the command to the run folder's history of starts.

    Raises:
        PlatformError: the folder cannot be written.
    """
    launcher = launcher_of(plan)
    variables = {**launcher.variables(plan), **(launcher.exported(plan) if plan.hosts else {})}
    entry = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "source": plan.source,
        "overrides": plan.overrides,
        "resume": plan.resume,
        "launcher": plan.launcher,
        "node_rank": plan.node_rank,
        "hosts": [{**asdict(host), "address": plan.addresses.get(host.name, "")} for host in plan.used_hosts()],
        "ranks": [asdict(place) for place in plan.ranks()],
        "environment": {name: value for name, value in variables.items() if not name.startswith("MEGACHAR_")},
        "command": command_of(plan),
    }
    try:
        with (plan.folder.launch / "history.jsonl").open("a", encoding="utf-8") as file:
            file.write(f"{json_text(entry)}\n")
    except OSError as error:
        raise PlatformError(f"{plan.folder.launch} cannot be written: {error}; free space") from error
