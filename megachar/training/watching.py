"""The watch over a rank in training: where its hub is. Imports torch only once training has."""

import os

from megachar.config.schema import Experiment
from megachar.training.run_folder import run_folder
from megachar.watch.hub import HubAddress
from megachar.watch.rank import Output, RankWatch

HUB_VARIABLE = "MEGACHAR_HUB"
"""Where a supervisor listens: a `HubAddress` as text."""


def watch_rank(experiment: Experiment, output: Output) -> RankWatch:
    """The watch of this process, connected to its supervisor where it has one."""
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    given = os.environ.get(HUB_VARIABLE)
    supervisor = HubAddress.parse(given) if given else None
    return RankWatch(rank, world_size, experiment.fault_tolerance, run_folder(experiment).failures, output, supervisor)


def connect_watch(watch: RankWatch) -> None:
    """Without a supervisor, rank 0 has the hub. Every rank must call it, once the process group stands."""
    import torch.distributed as dist

    if watch.connected or dist.get_world_size() == 1:
        return
    hub: list[HubAddress | None] = [watch.serve() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(hub, src=0)
    assert hub[0] is not None
    watch.connect(hub[0])
