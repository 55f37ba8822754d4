"""The machine at hand as a device: one block, one head and one update are timed, and the links between processes.

Steps of models of one and of three layers are taken under DeepSpeed's engine, with micro-batches of two sizes, with
intermediate layers speaking and silent. What they differ in tells what each costs (`planning.fitting`).
"""

import multiprocessing
import os
import time
from collections.abc import Iterator
from typing import Any, Final

from megachar.config.deepspeed import load_engine_config
from megachar.config.experiment import Experiment
from megachar.planning.devices import Device, Link, load_device
from megachar.planning.fitting import Timed, fit_device

_SECONDS: Final = 1.0
"""Of timed steps for each model."""
_FEWEST, _MOST = 3, 50
_LINK_BYTES: Final = (4, 1 << 22)


def measure_device(experiment: Experiment) -> Device:
    """Time this machine on the experiment's model, in its precision.

    Its own layout does not matter. Figures that one machine does not tell, such as those of the network, are those of
    the device that ships for its kind.
    """
    import psutil
    import torch

    from megachar.base.device import choose_device
    from megachar.parallel.mesh import available_cores, start
    from megachar.parallel.topology import Topology

    device = choose_device(experiment.device)
    on_cpu = device.type == "cpu"
    shipped = load_device("cpu" if on_cpu else "h100")
    if on_cpu:
        name, per_node = f"a core of {os.uname().nodename}", available_cores()
        memory = psutil.virtual_memory().total / per_node
        torch.set_num_threads(1)
    else:
        facts = torch.cuda.get_device_properties(device)
        name, memory, per_node = facts.name, facts.total_memory, torch.cuda.device_count()
    link = measure_link() if on_cpu and per_node > 1 else shipped.link
    mesh = start(Topology(1, 1, 1), device)
    timed = [Timed(variant, _time_steps(variant, mesh, silent), silent) for variant, silent in _variants(experiment)]
    precision = load_engine_config(experiment.deepspeed).precision
    facts_here = {"description": name, "per_node": per_node, "memory_bytes": float(memory), "link": link}
    fitted = fit_device(shipped.model_copy(update=facts_here), timed)
    products = {precision: fitted.product_flops[precision]}
    return fitted.model_copy(update={"link": link, "product_flops": products})


def _variants(experiment: Experiment) -> Iterator[tuple[Experiment, bool]]:
    """Small models of the experiment's kind, on one process; and whether their intermediate layers are silent."""
    largest = experiment.batch.micro_size
    speaks = experiment.auxiliary.intermediate_layers
    for num_layers in (1, 3):
        for micro_size in sorted({1, largest}):
            for count in (1, 3):
                for silent in (False, True) if speaks and num_layers > 1 else (False,):
                    sections: dict[str, dict[str, Any]] = {
                        "model": {"num_layers": num_layers, "local_offsets": ()},
                        "batch": {"micro_size": micro_size, "global_size": micro_size * count},
                        "parallel": {"pipe": 1, "tensor": 1, "data": 1, "activation_checkpoint_interval": 0},
                    }
                    yield _changed(experiment, sections), silent


def _changed(experiment: Experiment, sections: dict[str, dict[str, Any]]) -> Experiment:
    changed = {}
    for name, settings in sections.items():
        section = getattr(experiment, name)
        known = {key: value for key, value in settings.items() if key in type(section).model_fields}
        changed[name] = section.model_copy(update=known)
    return experiment.model_copy(update=changed)


def _time_steps(experiment: Experiment, mesh: Any, silent: bool) -> float:
    """Seconds of the fastest step on this process, since others may share the machine."""
    import torch

    from megachar.losses.auxiliary import layer_weights
    from megachar.training.setup import build_engine

    engine = build_engine(experiment, mesh)
    total = experiment.training.total_steps
    weights = layer_weights(experiment.auxiliary, experiment.model.num_layers, total, total - 1 if silent else 0)
    batches = [_micro_batch(experiment, number, mesh.device) for number in range(experiment.batch.num_micro_batches)]

    def step() -> float:
        since = time.perf_counter()
        engine.train_step(batches, weights, experiment.optimizer.learning_rate)
        if mesh.device.type == "cuda":
            torch.cuda.synchronize(mesh.device)
        return time.perf_counter() - since

    step()
    once = step()
    tries = max(_FEWEST, min(_MOST, int(_SECONDS / once)))
    return min(step() for _ in range(tries))


def _micro_batch(experiment: Experiment, number: int, device: Any) -> Any:
    """Random symbols."""
    import torch

    from megachar.layers.dropout import DropoutKey
    from megachar.layers.variational import SegmentKey
    from megachar.losses.auxiliary import target_weights
    from megachar.parallel.stage import MicroBatch, Segment

    model, rows = experiment.model, experiment.batch.micro_size
    shape = (rows, model.window_length)
    inputs = torch.randint(model.vocabulary_size, shape, device=device)
    targets = torch.randint(model.vocabulary_size, (*shape, len(target_weights(experiment.auxiliary))), device=device)
    if model.carried_shapes():
        key = (
            SegmentKey(experiment.seed, 0, tuple(range(number * rows, (number + 1) * rows)))
            if model.drops_out
            else None
        )
        return MicroBatch(inputs, targets, segment=Segment(number * rows, 0, key))
    return MicroBatch(inputs, targets, DropoutKey(experiment.seed, 0, number) if model.drops_out else None)


def measure_link() -> Link:
    """Between two processes of this machine, over gloo: there and back."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    port = _free_port()
    ranks = [context.Process(target=_exchange, args=(rank, port, theirs), daemon=True) for rank in range(2)]
    for rank in ranks:
        rank.start()
    theirs.close()
    try:
        small, large = ours.recv()
    finally:
        for rank in ranks:
            rank.join()
    return Link(bytes_per_second=_LINK_BYTES[1] / max(large - small, 1e-9), seconds=small)


def _exchange(rank: int, port: int, pipe: Any) -> None:
    """On a rank: send messages to and fro; the first one tells the seconds of one way for each size."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)

    def there_and_back(message: torch.Tensor) -> float:
        since = time.perf_counter()
        for sender in (0, 1):
            (dist.send if rank == sender else dist.recv)(message, 1 - rank)
        return (time.perf_counter() - since) / 2

    times = []
    for size in _LINK_BYTES:
        message = torch.zeros(size, dtype=torch.uint8)
        there_and_back(message)
        times.append(min(there_and_back(message) for _ in range(20)))
    if rank == 0:
        pipe.send(times)
    dist.destroy_process_group()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
