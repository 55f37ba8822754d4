"""What rank 0 makes of all findings: who is at fault, and three tables."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from megachar.base.tables import print_table
from megachar.parallel.topology import Topology
from megachar.selftest.collectives import COLLECTIVES, SEND
from megachar.selftest.findings import (
    SPEED,
    Findings,
    Measurement,
    Place,
    Problem,
    find_slow,
    format_rate,
    format_time,
    merge,
    name_ranks,
)
from megachar.selftest.groups import ALL, DATA, MODEL_GROUP, STAGES, TENSOR
from megachar.selftest.parity import CHECKS, drop_consequences
from megachar.selftest.roll_call import FAILED, IN, RollCall, Standstill

START, MODEL = "start", "model"
MOST_ROWS = 64
"""Ranks that are all listed; of more, only those at fault."""


@dataclass(frozen=True)
class Phase:
    """One check, run by all ranks at the same time in their groups."""

    check: str
    kind: str
    groups: list[list[int]]
    """The groups of all ranks."""
    work: Callable[[], Findings]


class Reporter:
    """On rank 0: merges what the ranks found, and prints it."""

    def __init__(
        self, roll_call: RollCall, phases: list[Phase], topology: Topology, slow_factor: float, console: Console
    ) -> None:
        self._roll_call, self._phases, self._topology = roll_call, phases, topology
        self._slow_factor, self._console = slow_factor, console

    def report(self, standstill: Standstill | None = None) -> int:
        """Print the tables, after the last phase or after one that stands still; returns the exit status."""
        done = len(self._phases) if standstill is None else standstill.phase
        everyone = [Findings.from_json(values) for number in range(len(self._phases))
                    for values in self._roll_call.found(number)]  # fmt: skip
        findings = merge(everyone)
        places = {rank: Place(rank, **place) for rank, place in self._roll_call.gather("place").items()}
        problems = drop_consequences(findings.problems, self._topology)
        problems += find_slow(findings.measurements, places, self._slow_factor)
        if standstill is not None and done < len(self._phases):
            now = {rank: (first, second) for rank, (first, second) in self._roll_call.gather("now").items()}
            problems += explain(standstill, self._phases[done], self._roll_call.timeout_seconds, now)
        self._print_ranks(places, problems)
        self._print_checks(findings, problems, done)
        _print_problems(problems, places, self._console)
        ranks = f"on {self._topology.world_size} rank{'s' * (self._topology.world_size > 1)}"
        if problems:
            self._console.print(f"{len(problems)} problem{'s' * (len(problems) > 1)} {ranks}")
        else:
            self._console.print(f"nothing is wrong {ranks}")
        return 1 if problems else 0

    def _print_ranks(self, places: dict[int, Place], problems: list[Problem]) -> None:
        at_fault = {rank for problem in problems for rank in problem.suspects}
        topology = self._topology
        table = Table("rank", "host", "device", "stage", "replica", "tensor part", "")
        for rank in range(topology.world_size):
            if topology.world_size > MOST_ROWS and rank not in at_fault:
                continue
            at, place = topology.coordinates(rank), places.get(rank, Place(rank, "?", "?"))
            verdict = Text("see below", "red") if rank in at_fault else Text("ok", "green")
            cells = (rank, place.host, place.device, at.pipe, at.data, at.tensor)
            table.add_row(*(Text(str(cell)) for cell in cells), verdict)
        if table.row_count:
            print_table(table, self._console)

    def _print_checks(self, findings: Findings, problems: list[Problem], done: int) -> None:
        """Checks down, kinds of groups across."""
        run = {(phase.check, phase.kind) for phase in self._phases[:done]}
        planned = {(phase.check, phase.kind) for phase in self._phases}
        kinds = [kind for kind in (ALL, STAGES, TENSOR, DATA, MODEL_GROUP) if any(kind == k for _, k in planned)]
        table = Table("", *kinds)
        for check in (START, *COLLECTIVES, SEND):
            cells = [_verdict(check, kind, problems, (check, kind) in run, (check, kind) in planned) for kind in kinds]
            table.add_row(check, *cells)
        table.add_section()
        wrong = {problem.check for problem in problems}
        follows = False
        for check in CHECKS:
            error = findings.errors.get(check)
            cell = Text("ok", "green") if error is not None else Text("not run")
            if follows:
                cell = Text("follows")  # from what was wrong before; it says nothing by itself
            elif wrong & {check, MODEL}:
                cell, follows = Text("WRONG", "red"), True
            note = "" if error is None else f" {error:.1e}"
            table.add_row(f"model: {check}", cell + Text(note), *[""] * (len(kinds) - 1))
        table.add_section()
        for name, show in (("latency", _latencies), ("bandwidth", _bandwidths)):
            table.add_row(name, *(show([m for m in findings.measurements if m.kind == kind]) for kind in kinds))
        print_table(table, self._console)


def explain(standstill: Standstill, phase: Phase, seconds: float, now: dict[int, tuple[int, int]]) -> list[Problem]:
    """Where a phase stands still: in which groups, and who did not come or did not come through.

    Args:
        standstill: who is where.
        phase: the phase.
        seconds: how long it was waited for.
        now: rank -> the neighbors it is at, in a phase that goes from pair to pair.
    """
    problems = []
    states, goes_by_pairs = standstill.states, phase.check == SEND or (phase.check == SPEED and phase.kind == STAGES)
    for group in map(tuple, phase.groups):
        missing = [rank for rank in group if rank not in states]
        inside = [rank for rank in group if states.get(rank) == IN]
        elsewhere = [rank for rank in inside if goes_by_pairs and now.get(rank) != group]
        if any(states.get(rank) == FAILED for rank in group) or not (missing or inside) or elsewhere:
            continue  # what failed has been reported; who is elsewhere is held up there
        if missing:
            waited = f"; {name_ranks(inside)} waited for it" if inside else ""
            text, suspects = f"{name_ranks(missing)} did not arrive within {seconds:g} s{waited}", missing
        elif len(inside) == len(group):
            text, suspects = f"all arrived, and none came through within {seconds:g} s: it hangs between them", inside
        else:
            through = [rank for rank in group if rank not in inside]
            text = f"{name_ranks(inside)} did not come through within {seconds:g} s, {name_ranks(through)} did"
            suspects = inside
        problems.append(Problem(phase.check, phase.kind, group, tuple(suspects), text))
    return problems


def _verdict(check: str, kind: str, problems: Iterable[Problem], has_run: bool, planned: bool) -> Text:
    if any(problem.check == check and problem.kind == kind for problem in problems):
        return Text("WRONG", "red")
    if not planned:
        return Text("")
    return Text("ok", "green") if has_run else Text("not run")


def _latencies(found: list[Measurement]) -> str:
    return _range([measurement.latency_seconds for measurement in found], format_time)


def _bandwidths(found: list[Measurement]) -> str:
    return _range([measurement.bytes_per_second for measurement in found], format_rate)


def _range(values: list[float], show: Callable[[float], str]) -> str:
    if not values:
        return ""
    low, high = show(min(values)), show(max(values))
    return low if low == high else f"{low} - {high}"


def _print_problems(problems: list[Problem], places: dict[int, Place], console: Console) -> None:
    if not problems:
        return
    table = Table("check", "group", "where", "what is wrong", "seen by", show_lines=True)
    for problem in problems:
        where = "\n".join(
            f"rank {rank}: {places[rank].host} {places[rank].device}" if rank in places else f"rank {rank}: not known"
            for rank in problem.suspects[:MOST_ROWS]
        )
        seen_by = name_ranks(problem.seen_by) if problem.seen_by else ""
        cells = (problem.check, f"{problem.kind}: {name_ranks(problem.ranks)}", where, problem.text, seen_by)
        table.add_row(*(Text(cell) for cell in cells))
    print_table(table, console)
