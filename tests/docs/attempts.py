"""How a command of the manual is tried: as it stands and at tiny size, or as far as it goes without a cluster."""

import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import metadata
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from unittest import mock

import typer

from megachar.base.errors import DataError
from megachar.cli import main
from megachar.config.experiment import Experiment
from megachar.config.loading import load_experiment
from megachar.data.corpus import Corpus
from megachar.launching.hostfile import read_hostfile
from megachar.planning.devices import load_device
from megachar.runs.preflight import check_data
from tests.docs.blocks import ROOT
from tests.docs.sandbox import NUM_SYMBOLS_ENWIK8

Attempt = Callable[[str], None]
"""Tries a command in the working folder, a sandbox; AssertionError where it does not do what it should."""

ENTRY = "import sys; from megachar.cli import main; sys.argv[0] = 'megachar'; main()"
FRESH = count()
"""Numbers for runs that may not exist yet."""


def run_megachar(words: Sequence[str]) -> tuple[int, str]:
    """Exit status and output of `megachar WORDS`, in this process."""
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    status: object = 0
    with (
        mock.patch.object(sys, "argv", ["megachar", *words]),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
    shown = output.buffer.getvalue().decode()  # type: ignore[attr-defined]
    return (status if isinstance(status, int) else 1), shown


def works(*more: str) -> Attempt:
    """`megachar ...` ends well, with `more` at its end."""

    def attempt(command: str) -> None:
        status, output = run_megachar([*_words(command), *more])
        assert status == 0, output

    return attempt


def refused(reason: str, *more: str) -> Attempt:
    """`megachar ...` is understood, and refused for what is not there: `reason` is a pattern in its message."""

    def attempt(command: str) -> None:
        status, output = run_megachar([*_words(command), *more])
        assert status == 2, output
        assert re.search(reason, output), output

    return attempt


def launch(*more: str) -> Attempt:
    """`megachar launch` or `sweep` passes its checks; its runs have a new name unless they are resumed or named."""

    def attempt(command: str) -> None:
        named = "--resume" in command or " name=" in command
        name = [] if named else [f"name=tried-{next(FRESH)}"]
        works("--dry-run", *name, *more)(command)

    return attempt


def selftest(command: str) -> None:
    """Everything up to the start of processes."""
    with mock.patch("megachar.cli.selftest.run", return_value=0):
        works()(command)


def calibrate(command: str) -> None:
    """Everything but the measuring, which takes a minute."""
    measured = load_device("cpu")
    with mock.patch("megachar.planning.calibration.measure_device", return_value=measured):
        works("--devices-file", "measured.yaml")(command)


def fetch(command: str) -> None:
    """Everything up to the download."""
    with mock.patch("megachar.corpora.downloads.fetch.fetch_corpus", side_effect=DataError("there is no network here")):
        refused("there is no network here")(command)


def launch_205_symbols(command: str) -> None:
    """The recipe of enwik8 gives the paper's number of symbols, and its model can be launched."""
    assert Corpus.open(Path("data/enwik8-205")).vocabulary.size == NUM_SYMBOLS_ENWIK8
    launch()(command)


def ranks_by(command: str) -> None:
    """Another launcher's line: its options, and an experiment for as many ranks as it starts."""
    words = _words(command, drop=0)
    script = words.index("launcher/train.py")
    assert (ROOT / words[script]).is_file()
    if words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        options = get_args_parser().parse_args(words[1:])
        num_ranks = int(options.nproc_per_node)
    elif words[0] == "deepspeed":
        from deepspeed.launcher.runner import parse_args

        num_ranks = sum(host.slots for host in read_hostfile(Path(parse_args(words[1:]).hostfile)))
    else:
        num_ranks = int(words[words.index("-n") + 1])
    assert _experiment(words[script + 1 :]).parallel.world_size == num_ranks


def slurm_job(command: str) -> None:
    """The job exists, is a script, and what it starts is understood, and refused where there is no Slurm."""
    printing = "$(megachar launch --slurm-script)"
    if printing in command:
        command = command.replace(printing, run_megachar(["launch", "--slurm-script"])[1].strip())
    words = shlex.split(command)
    script = next(number for number, word in enumerate(words) if word.endswith("slurm.sh"))
    bash_script(f"bash {words[script]}")
    refused("needs an allocation of Slurm", "--launcher", "slurm")(
        shlex.join(["megachar", "launch", *words[script + 1 :]])
    )


def parsed(command: str) -> None:
    """A script of tools/ knows the options, and the preset it is given; running it would take minutes."""
    script, *words = _words(command)
    path = ROOT / script
    sys.path.insert(0, str(path.parent))  # as Python does it for a script
    try:
        names = runpy.run_path(str(path), run_name="tried")
    finally:
        sys.path.remove(str(path.parent))
    app = names.get("app")
    if app is None:
        app = typer.Typer()
        app.command()(names["main"])
    known = typer.main.get_command(app)
    if isinstance(known, typer.core.TyperGroup):
        known, words = known.commands[words[0]], words[1:]
    given = known.make_context("tried", words).params
    if "overrides" in given:
        load_experiment(given["source"], given["overrides"] or [])


def module(command: str) -> None:
    """`python -m MODULE` is a module that is there."""
    assert find_spec(_words(command)[1]) is not None


def bash_script(command: str) -> None:
    """A script of launcher/ that Bash can read."""
    subprocess.run(["bash", "-n", ROOT / _words(command)[0]], check=True)


def pip_install(command: str) -> None:
    """The extras that are asked for are declared."""
    extras = re.findall(r"\[(\w+)\]", command)
    assert set(extras) <= set(metadata("megachar").get_all("Provides-Extra") or [])


def tensorboard(command: str) -> None:
    """The program and the folder are there."""
    assert shutil.which("tensorboard", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert Path(command.split()[-1]).is_dir()


def nothing(command: str) -> None:
    """Makes or enters an environment, which needs no test here."""


def by_bash(command: str) -> None:
    """A line of several programs, run as it stands, MPI jobs with two ranks."""
    if command.startswith("mpirun") and not shutil.which("mpirun"):
        return
    shims = Path("shims")
    shims.mkdir(exist_ok=True)
    shim = shims / "megachar"
    shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{ENTRY}" "$@"\n')
    shim.chmod(0o755)
    root = " --allow-run-as-root" if os.geteuid() == 0 else ""
    command = re.sub(r"^mpirun -n \d+", f"mpirun{root} --oversubscribe -n 2", command)
    environment = {**os.environ, "PATH": f"{shims.resolve()}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
                   "OMPI_MCA_mpi_yield_when_idle": "1"}  # fmt: skip
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _words(command: str, drop: int = 1) -> list[str]:
    """The words after the program's name; the disk that hosts share is a folder of the sandbox."""
    shared = f"{Path('shared').resolve()}/"
    return [word.replace("/shared/", shared) for word in shlex.split(command, comments=True)][drop:]


def _experiment(words: Sequence[str]) -> Experiment:
    experiment = load_experiment(words[0], list(words[1:]))
    check_data(experiment)
    return experiment
