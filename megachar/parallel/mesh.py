"""The processes of a run: torch.distributed started through DeepSpeed, and the groups of the layout."""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from pydantic import TypeAdapter

from megachar.base.errors import ConfigError, MegacharError, PlatformError
from megachar.parallel.library import load_deepspeed
from megachar.parallel.messages import error_as_json, error_from_json, gather
from megachar.parallel.store import stay_on_loopback
from megachar.parallel.topology import Coordinates, Topology

_PAIR = TypeAdapter(tuple[str, str])
_ERROR: TypeAdapter[tuple[str, str] | None] = TypeAdapter(tuple[str, str] | None)


@dataclass(frozen=True)
class Mesh:
    """This process in the layout."""

    topology: Topology
    rank: int
    device: torch.device
    tensor_group: dist.ProcessGroup
    data_group: dist.ProcessGroup
    model_group: dist.ProcessGroup
    control_group: dist.ProcessGroup
    """All ranks, over gloo: decisions the host takes, without waiting for a GPU."""

    @property
    def at(self) -> Coordinates:
        """Coordinates of this rank."""
        return self.topology.coordinates(self.rank)

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that prints and writes."""
        return self.rank == 0

    # The names DeepSpeed asks its `mpu` for. Where there is no pipeline, the model-parallel group is the tensor group.
    def get_model_parallel_rank(self) -> int:
        """Rank among the processes that cut the same matrices."""
        return self.at.tensor

    def get_model_parallel_world_size(self) -> int:
        """Number of processes that cut the same matrices."""
        return self.topology.tensor_size

    def get_model_parallel_group(self) -> dist.ProcessGroup:
        """Processes that cut the same matrices."""
        return self.tensor_group

    def get_data_parallel_rank(self) -> int:
        """Rank among the replicas."""
        return self.at.data

    def get_data_parallel_world_size(self) -> int:
        """Number of replicas."""
        return self.topology.data_size

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        """Processes that hold the same shard of the weights."""
        return self.data_group


def start(topology: Topology, device: torch.device, timeout_seconds: float = 0) -> Mesh:
    """Join the process group (RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT from the environment) and make the groups.

    Args:
        topology: the layout.
        device: of this process.
        timeout_seconds: how long to wait for other ranks, here and in each collective; 0: torch's default.

    Raises:
        ConfigError: the number of processes is not the layout's.
        PlatformError: this DeepSpeed is not a supported version.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size != topology.world_size:
        raise ConfigError(
            f"{world_size} processes were started, but the layout needs pipe {topology.pipe_size} x tensor "
            f"{topology.tensor_size} x data {topology.data_size} = {topology.world_size}; start "
            f"{topology.world_size}, or change parallel.pipe, parallel.tensor or parallel.data"
        )
    os.environ["DS_ACCELERATOR"] = device.type
    deepspeed = load_deepspeed()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, available_cores() // local_world_size()))
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1"),
                        ("MASTER_PORT", "0")):  # fmt: skip
        os.environ.setdefault(name, value)
    if not dist.is_initialized():
        timeout = {"timeout": timedelta(seconds=timeout_seconds)} if timeout_seconds else {}
        backend = "nccl" if device.type == "cuda" else "gloo"
        _served = stay_on_loopback()  # held until torch has it
        deepspeed.init_distributed(backend, auto_mpi_discovery=False, **timeout)
    return make_mesh(topology, device)


def available_cores() -> int:
    """Processor cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_world_size() -> int:
    """Processes of the run on this host, as deepspeed (LOCAL_SIZE) or torchrun (LOCAL_WORLD_SIZE) says."""
    return int(os.environ.get("LOCAL_SIZE") or os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE", "1"))


def make_mesh(topology: Topology, device: torch.device) -> Mesh:
    """Make the groups of a layout over the processes of an initialized torch.distributed."""
    rank = dist.get_rank()
    return Mesh(
        topology,
        rank,
        device,
        tensor_group=_own_group(topology.tensor_groups(), rank),
        data_group=_own_group(topology.data_groups(), rank),
        model_group=_own_group(topology.model_groups(), rank),
        control_group=dist.new_group(backend="gloo"),
    )


def check_agreement(mesh: Mesh, what: str, value: str) -> None:
    """Raise `PlatformError` on every rank unless all ranks hold the same `value` of `what`."""
    everyone = gather(_PAIR, (value, socket.gethostname()), mesh.control_group)
    for rank, (other, host) in enumerate(everyone):
        if other != everyone[0][0]:
            raise PlatformError(
                f"{what} is not the same everywhere: rank {rank} on {host} has {other}, rank 0 on {everyone[0][1]} has "
                f"{everyone[0][0]}; give every host the same files and settings"
            )


def fail_together(mesh: Mesh, error: MegacharError | None) -> None:
    """Raise on every rank the error of the first rank that has one. Every rank must call it; None is no error."""
    if any_rank(mesh, error is not None):
        everyone = gather(_ERROR, error_as_json(error), mesh.control_group)
        raise error_from_json(*next(other for other in everyone if other is not None))


def any_rank(mesh: Mesh, value: bool) -> bool:
    """Whether `value` holds on any rank. Every rank must call it; every rank gets the same answer."""
    flag = torch.tensor(int(value))
    dist.all_reduce(flag, dist.ReduceOp.MAX, group=mesh.control_group)
    return bool(flag)


def _own_group(groups: Sequence[Sequence[int]], rank: int) -> dist.ProcessGroup:
    """Make every group, on every rank in the same order, and return the one `rank` is in."""
    mine = None
    for ranks in groups:
        group = dist.new_group(list(ranks))
        if rank in ranks:
            mine = group
    assert mine is not None
    return mine
