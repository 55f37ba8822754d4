"""A run on its hosts: which rank sits where, and the command that starts it. Starts nothing itself."""

import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from megachar.base.errors import PlatformError
from megachar.base.files import atomic_write, json_text
from megachar.base.resources import resource_folder
from megachar.config.checks import check_experiment
from megachar.config.experiment import Experiment
from megachar.config.loading import save_experiment
from megachar.launching.hostfile import THIS_MACHINE, Host, render_hostfile
from megachar.parallel.topology import Coordinates, Topology
from megachar.runs.folder import RunFolder, run_folder

SCRIPTS = resource_folder("launcher")
TRAIN_SCRIPT, SELFTEST_SCRIPT, SLURM_SCRIPT = (SCRIPTS / name for name in ("train.py", "selftest.py", "slurm.sh"))

Launcher = Literal["local", "ssh", "no_ssh", "openmpi", "slurm"]
"""`local`: our own program, on this machine; `ssh`: DeepSpeed's runner, over pdsh and ssh; `no_ssh`: the same, started
by the user on every host; `openmpi`: mpirun; `slurm`: srun inside an allocation."""
DEFAULT_PORT = 29500
EXPORTED = ("CUDA_DEVICE_MAX_CONNECTIONS", "DS_ACCELERATOR", "FI_", "GLOO_", "LD_LIBRARY_PATH", "MEGACHAR_", "MKL_",
            "NCCL_", "OMP_", "PYTHONPATH", "TORCH_", "UCX_")  # fmt: skip
"""Beginnings of the names of environment variables that follow the run to its hosts."""


@dataclass(frozen=True)
class RankPlace:
    """Where a rank sits and what it does."""

    rank: int
    host: str
    local_rank: int
    """Its device on that host: rank modulo the host's slots, which is how DeepSpeed's launcher counts."""
    at: Coordinates


@dataclass(frozen=True)
class LaunchPlan:
    """What to train or test, on which hosts, started by what.

    The ranks read the experiment as it is frozen in the run folder, whatever becomes of its source: `prepare` writes it
    and the other files that `command` names. Call it once before each start.
    """

    experiment: Experiment
    source: str
    """The preset or YAML file the experiment was read from."""
    overrides: tuple[str, ...] = ()
    """Settings laid over it, `section.key=value`."""
    hosts: tuple[Host, ...] = ()
    """Hosts in the order their slots are filled; empty: this machine."""
    launcher: Launcher = "local"
    resume: bool = False
    node_rank: int = 0
    """With `no_ssh`: which of the hosts this machine is."""
    addresses: Mapping[str, str] = field(default_factory=dict)
    """Name of a host -> the address the other hosts reach it at; a host left out is called by its name."""
    master_port: int = DEFAULT_PORT
    """Port of rank 0 at which all ranks meet."""
    script: Path = TRAIN_SCRIPT
    """What every rank runs; its first argument is the experiment."""
    arguments: tuple[str, ...] = ()
    """The script's other arguments."""

    @property
    def trains(self) -> bool:
        """Whether the run reads the data and saves checkpoints."""
        return self.script == TRAIN_SCRIPT

    @property
    def topology(self) -> Topology:
        """The grid of its ranks."""
        parallel = self.experiment.parallel
        return Topology(parallel.pipe, parallel.data, parallel.tensor)

    @property
    def folder(self) -> RunFolder:
        """The run folder."""
        return run_folder(self.experiment)

    @property
    def master_address(self) -> str:
        """The address of the host of rank 0."""
        if not self.hosts:
            return "127.0.0.1"
        return self.addresses.get(self.hosts[0].name, self.hosts[0].name)

    @property
    def starting(self) -> str:
        """What it starts, in words."""
        size = self.topology.world_size
        return f"{size} rank{'s' if size > 1 else ''}"

    def used_hosts(self) -> tuple[Host, ...]:
        """The hosts that get ranks, each with as many slots as it gets: filled one after the other.

        Raises:
            PlatformError: the hosts have fewer slots than the layout has ranks.
        """
        needed = self.topology.world_size
        if not self.hosts:
            return (Host(THIS_MACHINE, needed),)
        used, left = [], needed
        for host in self.hosts:
            if left > 0:
                used.append(Host(host.name, min(host.slots, left)))
                left -= used[-1].slots
        if left > 0:
            raise PlatformError(_too_few_slots(self.experiment, self.hosts))
        return tuple(used)

    def ranks(self) -> tuple[RankPlace, ...]:
        """Every rank's place, by rank; the same under every launcher."""
        places: list[RankPlace] = []
        for host in self.used_hosts():
            for rank in range(len(places), len(places) + host.slots):
                places.append(RankPlace(rank, host.name, rank % host.slots, self.topology.coordinates(rank)))
        return tuple(places)

    def on_hosts(self, hosts: tuple[Host, ...]) -> "LaunchPlan":
        """The same run on these hosts: with fewer replicas, and the same global batch, where the slots do not suffice.

        Raises:
            PlatformError: not even the smallest number of replicas fits.
        """
        experiment, parallel = self.experiment, self.experiment.parallel
        replicas = sum(host.slots for host in hosts) // (parallel.pipe * parallel.tensor)
        micro_batches = experiment.batch.num_micro_batches
        fitting = [size for size in range(1, min(replicas, parallel.data) + 1) if micro_batches % size == 0]
        if not fitting:
            raise PlatformError(_too_few_slots(experiment, hosts))
        if fitting[-1] == parallel.data:
            return replace(self, hosts=hosts)
        smaller = experiment.model_copy(update={"parallel": parallel.model_copy(update={"data": fitting[-1]})})
        check_experiment(smaller)
        overrides = (*self.overrides, f"parallel.data={fitting[-1]}")
        return replace(self, experiment=smaller, overrides=overrides, hosts=hosts)

    def prepare(self) -> None:
        """Write the files that `command` and `environment` name into the run folder.

        With `no_ssh` all hosts write, and read, the same files.

        Raises:
            PlatformError: the folder cannot be written.
        """
        folder = self.folder.launch
        texts: dict[Path, str] = {}
        if self.hosts:
            texts[self._file("hostfile")] = render_hostfile(self.used_hosts())
            texts[self._file("environment")] = "".join(f"{name}={value}\n" for name, value in self.exported().items())
        if self.launcher == "slurm":
            texts[self._file("slurm_hosts")] = "".join(f"{place.host}\n" for place in self.ranks())
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_experiment(self.experiment, self._file("experiment.yaml"))
            for path, text in texts.items():
                with atomic_write(path) as part:
                    part.write_text(text, encoding="utf-8")
        except OSError as error:
            raise PlatformError(f"{folder} cannot be written: {error}; free space, or set output=FOLDER") from error

    def record_start(self) -> None:
        """Add the hosts, the layout and the command to the run folder's history of starts.

        Raises:
            PlatformError: the folder cannot be written.
        """
        variables = {**self.environment(), **(self.exported() if self.hosts else {})}
        entry = {
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "source": self.source,
            "overrides": self.overrides,
            "resume": self.resume,
            "launcher": self.launcher,
            "node_rank": self.node_rank,
            "hosts": [{**asdict(host), "address": self.addresses.get(host.name, "")} for host in self.used_hosts()],
            "ranks": [asdict(place) for place in self.ranks()],
            "environment": {name: value for name, value in variables.items() if not name.startswith("MEGACHAR_")},
            "command": self.command(),
        }
        try:
            with (self.folder.launch / "history.jsonl").open("a", encoding="utf-8") as file:
                file.write(f"{json_text(entry)}\n")
        except OSError as error:
            raise PlatformError(f"{self.folder.launch} cannot be written: {error}; free space") from error

    def command(self) -> list[str]:
        """The command that starts every rank, or with `no_ssh` those of this host.

        Raises:
            PlatformError: the hosts have too few slots, or a path cannot be passed to them.
        """
        resume = ["--resume"] if self.resume else []
        script = [str(self.script), str(self._file("experiment.yaml")), *resume, *self.arguments]
        if self.launcher == "openmpi":
            return [*self._mpirun(), sys.executable, "-u", *script]
        if self.launcher == "slurm":
            return [*self._srun(), sys.executable, "-u", *script]
        if self.launcher == "local":
            return [*self._local(), *script]
        if self.launcher == "ssh":
            _check_paths(sys.executable, *script, str(Path.cwd()))
        return [*self._deepspeed(), *script]

    def environment(self) -> dict[str, str]:
        """Variables to set for `command`, on top of this process's own."""
        variables = {}
        if self.experiment.device == "cpu":
            variables["DS_ACCELERATOR"] = "cpu"  # or DeepSpeed warns on every process that it found no GPU
        if self.launcher == "ssh":
            # An absolute path here keeps DeepSpeed's runner from looking for .deepspeed_env in the user's home.
            variables["DS_ENV_FILE"] = str(self._file("environment"))
        if self.launcher in ("openmpi", "slurm"):
            variables |= {"MASTER_ADDR": self.master_address, "MASTER_PORT": str(self.master_port)}
        if self.launcher == "slurm":
            variables["SLURM_HOSTFILE"] = str(self._file("slurm_hosts"))
        return variables

    def _file(self, name: Literal["experiment.yaml", "hostfile", "environment", "slurm_hosts"]) -> Path:
        """One of the files that `prepare` writes."""
        return self.folder.launch.absolute() / name

    def _local(self) -> list[str]:
        return [sys.executable, "-u", "-m", "megachar.launching.local", "--ranks", str(self.topology.world_size),
                "--port", str(self.master_port), "--device", self.experiment.device,
                "--settings", str(self._file("experiment.yaml"))]  # fmt: skip

    def _deepspeed(self) -> list[str]:
        runner = [sys.executable, "-m", "deepspeed.launcher.runner", "--log_level", "error"]
        runner += ["--master_port", str(self.master_port)]
        runner += ["--hostfile", str(self._file("hostfile")), "--master_addr", self.master_address]
        if self.launcher == "no_ssh":
            return [*runner, "--no_ssh", "--node_rank", str(self.node_rank)]
        return [*runner, "--force_multi"]  # or a single host in the hostfile is taken for this machine

    def _mpirun(self) -> list[str]:
        hosts = ",".join(f"{host.name}:{host.slots}" for host in self.used_hosts())
        # Cores are not bound: a process of two would be held to one core.
        exported = (part for name in self.exported() for part in ("-x", name))
        return ["mpirun", "-n", str(self.topology.world_size), "--host", hosts, "--map-by", "slot", "--bind-to", "none",
                *exported]  # fmt: skip

    def _srun(self) -> list[str]:
        # The order of the hosts is the plan's own: a block distribution goes by the cores that are free.
        return ["srun", "--ntasks", str(self.topology.world_size), "--nodes", str(len(self.used_hosts())),
                "--distribution", "arbitrary", "--kill-on-bad-exit=1"]  # fmt: skip

    def exported(self) -> dict[str, str]:
        """Variables that follow the run to its hosts."""
        variables = {**os.environ, **self.environment()}
        own = {name: value for name, value in variables.items() if name.startswith(EXPORTED)}
        if self.launcher == "openmpi":
            own |= {name: variables[name] for name in ("MASTER_ADDR", "MASTER_PORT")}
        return dict(sorted(own.items()))


def shell_command(plan: LaunchPlan) -> str:
    """The plan's command with its variables, as a shell takes it."""
    variables = (f"{name}={shlex.quote(value)}" for name, value in plan.environment().items())
    return " ".join((*variables, shlex.join(plan.command())))


def _check_paths(*paths: str) -> None:
    """Refuse what DeepSpeed's runner writes into a shell command as it stands."""
    for path in paths:
        if not re.fullmatch(r"[\w@+=:,./-]+", path):
            raise PlatformError(
                f"{path!r} holds characters that DeepSpeed's runner cannot pass to another host; move it"
            )


def _too_few_slots(experiment: Experiment, hosts: tuple[Host, ...]) -> str:
    parallel, slots = experiment.parallel, sum(host.slots for host in hosts)
    named = ", ".join(f"{host.name} slots={host.slots}" for host in hosts) or "no host"
    return (
        f"pipe {parallel.pipe} x tensor {parallel.tensor} x data {parallel.data} needs {parallel.world_size} slots and "
        f"there are {slots} ({named}); name more hosts, or set parallel.pipe, parallel.tensor or parallel.data lower"
    )
