"""`megachar launch`: check everything that can be checked, then start the processes through DeepSpeed's runner."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from megachar.config.loading import load_experiment
from megachar.config.schema import Experiment
from megachar.errors import PlatformError
from megachar.training.preflight import check_data, check_run_folder

TRAIN_SCRIPT = Path(__file__).resolve().parents[2] / "launcher" / "train.py"


def launch(
    experiment: Annotated[str, typer.Argument(help="a preset or a YAML file")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value")] = None,
    hostfile: Annotated[Path | None, typer.Option(help="DeepSpeed hostfile; without one: this machine")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the run's newest checkpoint")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check, print the command and stop")] = False,
) -> None:
    """Train an experiment on pipe x tensor x data processes."""
    loaded = load_experiment(experiment, overrides or [])
    check_data(loaded)
    check_run_folder(loaded, resume)
    command = deepspeed_command(loaded, experiment, overrides or [], hostfile, resume)
    typer.echo(shlex.join(command))
    if dry_run:
        return
    sys.stdout.flush()
    if loaded.device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"  # or DeepSpeed warns on every process that it found no GPU
    os.execv(command[0], command)  # the runner takes this process's place, and with it its signals


def deepspeed_command(
    loaded: Experiment, experiment: str, overrides: list[str], hostfile: Path | None, resume: bool
) -> list[str]:
    """The command that starts the run.

    Raises:
        PlatformError: megachar was installed without its launcher folder, or the hostfile does not exist.
    """
    if not TRAIN_SCRIPT.is_file():
        raise PlatformError(f"{TRAIN_SCRIPT} does not exist; install megachar from a checkout: pip install -e .")
    if hostfile is not None and not hostfile.is_file():
        raise PlatformError(f"hostfile {hostfile} does not exist; each line of one reads: HOST slots=GPUS")
    # An empty hostfile keeps the runner from picking up /job/hostfile.
    hosts = ["--hostfile", str(hostfile) if hostfile else os.devnull]
    local = [] if hostfile else ["--num_gpus", str(loaded.parallel.world_size), "--master_port", str(free_port())]
    script = [str(TRAIN_SCRIPT), experiment, *overrides, *(["--resume"] if resume else [])]
    runner = [sys.executable, "-m", "deepspeed.launcher.runner", "--log_level", "error"]
    return [*runner, *hosts, *local, *script]


def free_port() -> int:
    """A TCP port nobody listens on at the moment."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
