"""What a rank finds out about itself and its groups, in a form that goes through JSON. Imports no torch."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

SPEED = "speed"


@dataclass(frozen=True)
class Place:
    """Where a rank sits."""

    rank: int
    host: str
    device: str


@dataclass(frozen=True)
class Problem:
    """Something that is wrong."""

    check: str
    kind: str
    ranks: tuple[int, ...]
    """The group in which it showed: its kind, and its ranks."""
    suspects: tuple[int, ...]
    """The ranks that it comes from, as far as can be said."""
    text: str
    """What is wrong, with the values."""
    seen_by: tuple[int, ...] = ()
    """The ranks that noticed it."""


@dataclass(frozen=True)
class Measurement:
    """How fast a group or a link is."""

    kind: str
    ranks: tuple[int, ...]
    latency_seconds: float
    """Of a message of a few bytes: one way between two ranks, or a whole all-reduce."""
    bytes_per_second: float
    """Between two ranks one way; of an all-reduce, what each rank sends (its bus bandwidth)."""


@dataclass
class Findings:
    """All that one rank, or all of them, found."""

    problems: list[Problem] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    errors: dict[str, float] = field(default_factory=dict)
    """Check -> largest relative error, of the checks that allow one."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> "Findings":
        """What `to_json` gave."""

        def tuples(item: dict[str, Any]) -> dict[str, Any]:
            return {name: tuple(value) if isinstance(value, list) else value for name, value in item.items()}

        return Findings(
            [Problem(**tuples(problem)) for problem in values["problems"]],
            [Measurement(**tuples(measurement)) for measurement in values["measurements"]],
            values["errors"],
        )


def merge(everyone: Iterable[Findings]) -> Findings:
    """What all ranks found: what several have or noticed once, measurements once, the largest error of a check."""
    problems: dict[tuple[Any, ...], Problem] = {}
    measurements: dict[tuple[Any, ...], Measurement] = {}
    errors: dict[str, float] = {}
    for findings in everyone:
        for problem in findings.problems:
            key = (problem.check, problem.kind, problem.ranks, problem.suspects)
            known = problems.setdefault(key, replace(problem, seen_by=()))
            problems[key] = replace(known, seen_by=tuple(sorted({*known.seen_by, *problem.seen_by})))
        for measurement in findings.measurements:
            measurements.setdefault((measurement.kind, measurement.ranks), measurement)
        for check, error in findings.errors.items():
            errors[check] = max(error, errors.get(check, 0.0))
    same: dict[tuple[Any, ...], Problem] = {}
    for problem in problems.values():
        alike = (problem.check, problem.kind, problem.ranks, problem.text)
        known = same.setdefault(alike, problem)
        suspects, seen_by = {*known.suspects, *problem.suspects}, {*known.seen_by, *problem.seen_by}
        same[alike] = replace(known, suspects=tuple(sorted(suspects)), seen_by=tuple(sorted(seen_by)))
    return Findings(list(same.values()), list(measurements.values()), errors)


def find_slow(measurements: Iterable[Measurement], places: dict[int, Place], factor: float) -> list[Problem]:
    """Links and groups `factor` times slower than the fastest of their kind; those between hosts apart from others."""
    alike: dict[tuple[str, bool], list[Measurement]] = {}
    for measurement in measurements:
        one_host = len({places[rank].host for rank in measurement.ranks}) == 1
        alike.setdefault((measurement.kind, one_host), []).append(measurement)
    problems = []
    for (kind, _), found in alike.items():
        best_bytes = max(measurement.bytes_per_second for measurement in found)
        best_latency = min(measurement.latency_seconds for measurement in found)
        for one in found:
            texts = []
            if one.bytes_per_second * factor < best_bytes:
                texts.append(f"{format_rate(one.bytes_per_second)} where the fastest has {format_rate(best_bytes)}")
            if one.latency_seconds > factor * best_latency:
                texts.append(f"{format_time(one.latency_seconds)} where the fastest takes {format_time(best_latency)}")
            if texts:
                problems.append(Problem(SPEED, kind, one.ranks, one.ranks, "; ".join(texts), one.ranks))
    return problems


def name_ranks(ranks: Iterable[int]) -> str:
    """`rank 3`, or `ranks 0-3, 8`."""
    numbers = sorted(ranks)
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return "ranks " + ", ".join(_name_run(run) for run in runs)


def _name_run(run: list[int]) -> str:
    return f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run))


def format_rate(bytes_per_second: float) -> str:
    """`12.3 GB/s`."""
    for unit in ("B", "kB", "MB"):
        if bytes_per_second < 1000:
            return f"{bytes_per_second:.3g} {unit}/s"
        bytes_per_second /= 1000
    return f"{bytes_per_second:.3g} GB/s"


def format_time(seconds: float) -> str:
    """`12.3 us`."""
    return f"{seconds * 1e6:.3g} us" if seconds < 1e-3 else f"{seconds * 1e3:.3g} ms"
