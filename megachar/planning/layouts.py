"""All layouts of an experiment on some devices, each of them legal or refused by the project's own checks."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache

from megachar.base.errors import ConfigError
from megachar.config.checks import check_experiment
from megachar.config.deepspeed import DS_CONFIGS, EngineConfig, load_engine_config
from megachar.config.experiment import DeepSpeedFile, Experiment
from megachar.config.sections.layout import ParallelConfig

LAYOUT_SETTINGS = (
    "parallel.pipe", "parallel.tensor", "parallel.data", "parallel.activation_checkpoint_interval", "batch.micro_size",
    "deepspeed",
)  # fmt: skip
"""What a plan varies, unless it is given."""


@dataclass(frozen=True)
class Layout:
    """How an experiment is cut over devices, and what each of them holds."""

    parallel: ParallelConfig
    micro_size: int
    """Windows of a micro-batch."""
    deepspeed: str | DeepSpeedFile
    """The JSON's name or content."""
    engine: EngineConfig = field(repr=False, compare=False)
    """What it says."""

    @property
    def grid(self) -> tuple[int, int, int]:
        """Pipeline stages, tensor ranks, and replicas."""
        return self.parallel.pipe, self.parallel.tensor, self.parallel.data

    def applied_to(self, experiment: Experiment) -> Experiment:
        """The experiment in this layout; not checked."""
        batch = experiment.batch
        if batch.micro_size != self.micro_size:
            batch = batch.model_copy(update={"micro_size": self.micro_size})
        return experiment.model_copy(update={"parallel": self.parallel, "batch": batch, "deepspeed": self.deepspeed})


def all_layouts(experiment: Experiment, devices: int, given: Iterable[str] = ()) -> Iterator[tuple[Layout, str | None]]:
    """Every layout on all of the devices or a whole fraction of them, and why it is refused; None where it is legal.

    Pipeline stages, tensor ranks and replicas are all that multiply to the number; micro-batches, all that divide the
    batch; DeepSpeed JSONs, those that ship in the experiment's precision, and its own; blocks that are recomputed
    together, none and powers of four up to those of a stage. A layout that is refused is given without recomputation.

    Args:
        experiment: what is to be trained.
        devices: how many there are.
        given: settings of `LAYOUT_SETTINGS` that stay as the experiment has them.
    """
    kept = set(given)
    engines = _engines(experiment, "deepspeed" in kept)
    batch, parallel = experiment.batch, experiment.parallel
    micro_sizes = [batch.micro_size] if "batch.micro_size" in kept else _divisors(batch.global_size)
    of_blocks = "parallel.activation_checkpoint_interval"
    for pipe, tensor, data in _grids(devices):
        sizes = {"parallel.pipe": pipe, "parallel.tensor": tensor, "parallel.data": data}
        if any(sizes[name] != getattr(parallel, name.partition(".")[2]) for name in kept & sizes.keys()):
            continue
        grid = parallel.model_copy(update={"pipe": pipe, "tensor": tensor, "data": data})
        intervals = _intervals(math.ceil(experiment.model.num_layers / pipe))
        intervals = [parallel.activation_checkpoint_interval] if of_blocks in kept else intervals
        recomputing = [grid.model_copy(update={"activation_checkpoint_interval": interval}) for interval in intervals]
        for micro_size in micro_sizes:
            for deepspeed, engine in engines:
                first = Layout(recomputing[0], micro_size, deepspeed, engine)
                reason = refusal(experiment, first)
                yield first, reason
                for other in recomputing[1:] if reason is None else ():
                    layout = Layout(other, micro_size, deepspeed, engine)
                    yield layout, refusal(experiment, layout)


def refusal(experiment: Experiment, layout: Layout) -> str | None:
    """What `check_experiment` has against a layout; None where it has nothing."""
    try:
        check_experiment(layout.applied_to(experiment), layout.engine)
    except ConfigError as error:
        return str(error)
    return None


def _engines(experiment: Experiment, only_own: bool) -> list[tuple[str | DeepSpeedFile, EngineConfig]]:
    own = load_engine_config(experiment.deepspeed)
    found: dict[str, tuple[str | DeepSpeedFile, EngineConfig]] = {
        str(experiment.deepspeed): (experiment.deepspeed, own)
    }
    for path in () if only_own else sorted(DS_CONFIGS.glob("*.json")):
        engine = load_engine_config(path.stem)
        if engine.precision == own.precision:
            found.setdefault(path.stem, (path.stem, engine))
    return list(found.values())


def _grids(devices: int) -> Iterator[tuple[int, int, int]]:
    for used in reversed(_divisors(devices)):
        for pipe in _divisors(used):
            for tensor in _divisors(used // pipe):
                yield pipe, tensor, used // pipe // tensor


@cache
def _divisors(number: int) -> list[int]:
    small = [size for size in range(1, math.isqrt(number) + 1) if number % size == 0]
    return sorted({*small, *(number // size for size in small)})


def _intervals(blocks: int) -> list[int]:
    return [0, *(1 << power for power in range(0, blocks.bit_length(), 2))]
