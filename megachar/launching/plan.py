"""A run on its hosts: which rank sits where. Starts nothing itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from megachar.base.errors import PlatformError
from megachar.base.resources import resource_folder
from megachar.config.checks import check_experiment
from megachar.config.experiment import Experiment
from megachar.launching.hostfile import THIS_MACHINE, Host
from megachar.parallel.topology import Coordinates, Topology
from megachar.runs.folder import RunFolder, run_folder

SCRIPTS = resource_folder("launcher")
TRAIN_SCRIPT, SELFTEST_SCRIPT, SLURM_SCRIPT = (SCRIPTS / name for name in ("train.py", "selftest.py", "slurm.sh"))

DEFAULT_PORT = 29500


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

    The ranks read the experiment as it is frozen in the run folder, whatever becomes of its source.
    """

    experiment: Experiment
    source: str
    """The preset or YAML file the experiment was read from."""
    overrides: tuple[str, ...] = ()
    """Settings laid over it, `section.key=value`."""
    hosts: tuple[Host, ...] = ()
    """Hosts in the order their slots are filled; empty: this machine."""
    launcher: str = "local"
    """Its name (`launching.starting.LAUNCHERS`)."""
    resume: bool = False
    node_rank: int = 0
    """Where the user starts every host: which of them this machine is."""
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

    @property
    def experiment_file(self) -> Path:
        """What the ranks read: the experiment, frozen at the start."""
        return self.folder.launch.absolute() / "experiment.yaml"

    @property
    def hostfile(self) -> Path:
        """Of the hosts that get ranks."""
        return self.folder.launch.absolute() / "hostfile"

    @property
    def environment_file(self) -> Path:
        """The variables that follow the run to its hosts, one a line."""
        return self.folder.launch.absolute() / "environment"


def _too_few_slots(experiment: Experiment, hosts: tuple[Host, ...]) -> str:
    parallel, slots = experiment.parallel, sum(host.slots for host in hosts)
    named = ", ".join(f"{host.name} slots={host.slots}" for host in hosts) or "no host"
    return (
        f"pipe {parallel.pipe} x tensor {parallel.tensor} x data {parallel.data} needs {parallel.world_size} slots and "
        f"there are {slots} ({named}); name more hosts, or set parallel.pipe, parallel.tensor or parallel.data lower"
    )
