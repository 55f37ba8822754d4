"""Which layers of which replica each rank holds, in words."""

from dataclasses import dataclass

from megachar.config.experiment import Experiment
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
    num_stages = experiment.parallel.pipe
    if num_stages == 1:
        return "the whole model"
    blocks = stage_blocks(experiment.model.num_layers, num_stages)[stage]
    parts = [f"block {blocks[0]}" if len(blocks) == 1 else f"blocks {blocks[0]}-{blocks[-1]}"]
    if stage == 0:
        parts.insert(0, "embedding")
    if stage == num_stages - 1:
        parts.append("head")
    return ", ".join(parts)


def device_name(experiment: Experiment, local_rank: int) -> str:
    """What a rank computes on."""
    if experiment.device == "cpu":
        return "cpu"
    return f"cuda:{local_rank}" if experiment.device == "cuda" else f"cuda:{local_rank} or cpu"
