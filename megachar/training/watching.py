"""The watch over a rank in training: where its hub is. Imports torch only once training has."""

import os
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from megachar.config.experiment import Experiment
from megachar.runs.folder import run_folder
from megachar.watch.address import HubAddress
from megachar.watch.rank import Output, RankWatch
from megachar.watch.secret import Secret

if TYPE_CHECKING:
    from megachar.parallel.mesh import Mesh

HUB_VARIABLE = "MEGACHAR_HUB"
"""Where a supervisor listens: a `HubAddress` as text."""


def watch_rank(experiment: Experiment, output: Output) -> RankWatch:
    """The watch of this process, connected to its supervisor where it has one."""
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    given = os.environ.get(HUB_VARIABLE)
    supervisor = HubAddress.parse(given) if given else None
    folder = run_folder(experiment)
    return RankWatch(
        rank, world_size, experiment.fault_tolerance, folder.failures, output, supervisor, launch=folder.launch
    )


def connect_watch(watch: RankWatch, mesh: "Mesh", secret: Secret) -> None:
    """Without a supervisor, rank 0 has the hub. Every rank must call it."""
    from megachar.parallel.messages import gather

    if watch.connected or mesh.topology.world_size == 1:
        return
    kind: TypeAdapter[HubAddress | None] = TypeAdapter(HubAddress | None)
    hub = gather(kind, watch.serve(secret) if mesh.is_main else None, mesh.control_group)[0]
    assert hub is not None
    watch.connect(hub, secret)
