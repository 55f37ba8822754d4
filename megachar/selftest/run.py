"""The self-test on one rank: a list of phases, the same on all ranks."""

import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from rich.console import Console

from megachar.base.device import choose_device
from megachar.config.deepspeed import load_engine_config
from megachar.config.experiment import Experiment
from megachar.parallel.mesh import Mesh, check_agreement, start
from megachar.parallel.proof import prove_membership
from megachar.parallel.topology import Topology
from megachar.runs.folder import run_folder
from megachar.selftest.collectives import COLLECTIVES, SEND, check_neighbors
from megachar.selftest.findings import SPEED, Findings, Problem
from megachar.selftest.groups import ALL, DATA, STAGES, TENSOR, kinds, neighbors, own_group
from megachar.selftest.parity import check_parity, shrink
from megachar.selftest.report import MODEL, START, Phase, Reporter
from megachar.selftest.roll_call import RollCall
from megachar.selftest.speed import measure_all_reduce, measure_stages

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Bench:
    """What the phases need; the mesh is there after the first one."""

    experiment: Experiment
    topology: Topology
    roll_call: RollCall
    _mesh: list[Mesh] = field(default_factory=list)

    @property
    def mesh(self) -> Mesh:
        """This rank's groups."""
        return self._mesh[0]

    def join(self) -> Findings:
        """Choose the device, and make the process groups."""
        device = choose_device(self.experiment.device)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        self.roll_call.tell("place", {"host": socket.gethostname(), "device": f"{device} {name}".strip()})
        self._mesh.append(start(self.topology, device))
        prove_membership(self.mesh, run_folder(self.experiment).launch)
        check_agreement(self.mesh, "the experiment", self.experiment.model_dump_json())
        return Findings()

    def collective(self, check: str, kind: str) -> Callable[[], Findings]:
        """One collective in this rank's group of a kind."""

        def work() -> Findings:
            group = own_group(kind, self.mesh)
            problems = [found for dtype in self._dtypes() for found in COLLECTIVES[check](group, self.mesh, dtype)]
            return Findings(problems)

        return work

    def exchange(self, kind: str) -> Callable[[], Findings]:
        """Both ways between neighbors of a kind."""

        def work() -> Findings:
            return Findings([found for dtype in self._dtypes()
                             for found in check_neighbors(kind, self.mesh, dtype, self._begin)])  # fmt: skip

        return work

    def model(self) -> Findings:
        """The tiny model on this layout."""
        return check_parity(shrink(self.experiment), self.mesh)

    def stages_speed(self) -> Findings:
        """Latency and bandwidth to the neighboring stages."""
        return Findings(measurements=list(measure_stages(self.mesh, self._begin)))

    def group_speed(self, kind: str) -> Callable[[], Findings]:
        """Latency and bandwidth within a group."""
        return lambda: Findings(measurements=[measure_all_reduce(own_group(kind, self.mesh), self.mesh)])

    def _begin(self, pair: tuple[int, int]) -> None:
        self.roll_call.tell("now", pair)

    def _dtypes(self) -> list[torch.dtype]:
        """fp32, and the type of the experiment's weights."""
        return list(dict.fromkeys((torch.float32, DTYPES[load_engine_config(self.experiment.deepspeed).precision])))


def phases(bench: Bench) -> list[Phase]:
    """All checks, in order."""
    topology, groups = bench.topology, kinds(bench.topology)
    every = [list(range(topology.world_size))]
    found = [Phase(START, ALL, every, bench.join)]
    for kind in groups:
        for check in COLLECTIVES:
            found.append(Phase(check, kind, groups[kind], bench.collective(check, kind)))
    links = {kind: [list(pair) for pair in neighbors(kind, topology)] for kind in (STAGES, TENSOR, DATA)}
    for kind, pairs in links.items():
        if pairs:
            found.append(Phase(SEND, kind, pairs, bench.exchange(kind)))
    found.append(Phase(MODEL, ALL, every, bench.model))
    if links[STAGES]:
        found.append(Phase(SPEED, STAGES, links[STAGES], bench.stages_speed))
    for kind in (TENSOR, DATA):
        if kind in groups:
            found.append(Phase(SPEED, kind, groups[kind], bench.group_speed(kind)))
    return found


def selftest(
    experiment: Experiment, timeout_seconds: float, slow_factor: float, console: Console, prefix: str = "selftest"
) -> int:
    """Run all checks on this process's rank; the report is printed on rank 0.

    Args:
        experiment: whose layout, DeepSpeed JSON, device and auxiliary losses are tested.
        timeout_seconds: after which a phase that does not end is reported, and all processes are ended.
        slow_factor: how much slower than the fastest of its kind a link may be.
        console: of the report.
        prefix: of the keys in the store, if several tests share one.

    Returns:
        The exit status, the same on all ranks: 0 if nothing is wrong.
    """
    parallel = experiment.parallel
    topology = Topology(parallel.pipe, parallel.data, parallel.tensor)
    roll_call = RollCall(prefix, timeout_seconds)
    todo = phases(Bench(experiment, topology, roll_call))
    reporter = Reporter(roll_call, todo, topology, slow_factor, console)
    roll_call.watch(reporter.report)
    for phase in todo:
        roll_call.enter()
        try:
            findings = phase.work()
        except Exception as error:
            traceback.print_exc()
            rank, text = roll_call.rank, f"{type(error).__name__}: {error}".splitlines()[0]
            group = next(tuple(group) for group in phase.groups if rank in group)
            problem = Problem(phase.check, phase.kind, group, (rank,), text, (rank,))
            roll_call.leave(Findings([problem]).to_json(), failed=True)
            roll_call.stand()
        roll_call.leave(findings.to_json(), failed=False)
    roll_call.enter()  # all are through
    return roll_call.finish(reporter.report() if roll_call.rank == 0 else 0)
