"""Which layers of which replica each rank holds, in words."""

from dataclasses import dataclass

from megachar.config.experiment import Experiment
from megachar.families.parameters import layer_names
from megachar.launching.plan import LaunchPlan
from megachar.parallel.topology import stage_blocks


@dataclass(frozen=True)
class LayoutRow:
    """One rank of the layout."""

    host: str
    device: str
    rank: int
    replica: str
    stage: str
    tensor_part: str
    layers: str


def layout_rows(plan: LaunchPlan) -> list[LayoutRow]:
    """The layout by rank, counted from 0; PlatformError where the hosts have too few slots."""
    parallel = plan.experiment.parallel
    return [
        LayoutRow(
            place.host,
            device_name(plan.experiment, place.local_rank),
            place.rank,
            f"{place.at.data} of {parallel.data}",
            f"{place.at.pipe} of {parallel.pipe}",
            f"{place.at.tensor} of {parallel.tensor}",
            stage_layers(plan.experiment, place.at.pipe),
        )
        for place in plan.ranks()
    ]


def stage_layers(experiment: Experiment, stage: int) -> str:
    """What a pipeline stage holds."""
    names, num_stages = layer_names(experiment.model), experiment.parallel.pipe
    numbered = [name for name in names if "." in name]
    own = stage_blocks(len(numbered), num_stages)[stage]
    kind = numbered[0].partition(".")[0]
    parts = [f"{kind[:-1]} {own[0]}" if len(own) == 1 else f"{kind} {own[0]}-{own[-1]}"]
    first, last = names.index(numbered[0]), names.index(numbered[-1]) + 1
    below, above = names[:first] if stage == 0 else [], names[last:] if stage == num_stages - 1 else []
    return ", ".join([*below, *parts, *above])


def device_name(experiment: Experiment, local_rank: int) -> str:
    """What a rank computes on."""
    if experiment.device == "cpu":
        return "cpu"
    return f"cuda:{local_rank}" if experiment.device == "cuda" else f"cuda:{local_rank} or cpu"
