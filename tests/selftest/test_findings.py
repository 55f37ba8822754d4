"""Who is at fault, from what all ranks say."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from megachar.parallel.topology import Topology
from megachar.selftest.findings import (
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
from megachar.selftest.groups import ALL, DATA, STAGES, kinds, neighbors
from megachar.selftest.parity import GRADIENTS, LOSSES, PARAMETERS, REDUCED, drop_consequences
from megachar.selftest.report import Phase, explain
from megachar.selftest.roll_call import FAILED, IN, OUT, Standstill


def problem(check: str, suspects: Sequence[int], seen_by: Sequence[int] = (), text: str = "wrong") -> Problem:
    return Problem(check, DATA, (0, 1, 2, 3), tuple(suspects), text, tuple(seen_by))


def test_findings_go_through_json() -> None:
    findings = Findings([problem("broadcast", [1], [0])], [Measurement(STAGES, (0, 1), 1e-5, 1e9)], {LOSSES: 1e-7})
    assert Findings.from_json(json.loads(json.dumps(findings.to_json()))) == findings


def test_what_several_noticed_is_one_problem() -> None:
    """Texts may differ by what each saw; and what several have themselves is one as well."""
    found = merge([
        Findings([problem("broadcast", [1], [0], "3 values")], errors={LOSSES: 1e-7}),
        Findings([problem("broadcast", [1], [3], "4 values"), problem("model", [1], [1])]),
        Findings([problem("model", [2], [2])], errors={LOSSES: 1e-6}),
    ])  # fmt: skip
    assert found.problems == [
        problem("broadcast", [1], [0, 3], "3 values"),
        problem("model", [1, 2], [1, 2]),
    ]
    assert found.errors == {LOSSES: 1e-6}


def test_slow_links_are_compared_with_their_like() -> None:
    """Links between hosts are slower than those within one, and that is no problem."""
    places = {rank: Place(rank, f"node{rank // 4}", "cpu") for rank in range(8)}
    fast = [Measurement(STAGES, pair, 1e-5, 1e10) for pair in [(0, 1), (2, 3), (4, 5)]]
    between = [Measurement(STAGES, (1, 4), 1e-4, 1e9), Measurement(STAGES, (2, 6), 9e-4, 1e9),
               Measurement(STAGES, (3, 7), 1e-4, 1e8)]  # fmt: skip
    assert find_slow(fast + between[:1], places, 5) == []
    latency, bandwidth = find_slow(fast + between, places, 5)
    assert latency.suspects == (2, 6)
    assert latency.text == "900 us where the fastest takes 100 us"
    assert bandwidth.suspects == (3, 7)
    assert bandwidth.text == "100 MB/s where the fastest has 1 GB/s"


@pytest.mark.parametrize(("check", "expected"), [(LOSSES, [1, 4]), (GRADIENTS, [3, 4])], ids=["forward", "backward"])
def test_the_stage_a_fault_comes_from_is_kept(check: str, expected: list[int]) -> None:
    """3 stages x 2 replicas: a wrong loss spreads to later stages of its replica, a wrong gradient to earlier ones."""
    topology = Topology(3, 2, 1)
    problems = [problem(check, [1]), problem(check, [3]), problem(check, [4]), problem(PARAMETERS, [0])]
    others = [problem("broadcast", [0])]
    kept = drop_consequences([*problems, problem(REDUCED, [0, 1]), *others], topology)
    assert [found.suspects[0] for found in kept if found.check == check] == expected
    assert [found.check for found in kept if found.check != check] == ["broadcast"]
    assert drop_consequences([problem(PARAMETERS, [2]), problem(REDUCED, [0, 1])], topology) == [
        problem(REDUCED, [0, 1])
    ]


def stand(states: dict[int, str], check: str = "broadcast", now: Any = None, **groups: Any) -> list[tuple[Any, str]]:
    phase = Phase(check, groups.get("kind", DATA), groups.get("groups", [[0, 1], [2, 3]]), Findings)
    return [(found.suspects, found.text) for found in explain(Standstill(0, states), phase, 9, now or {})]


def test_who_did_not_arrive_is_named() -> None:
    states = {0: OUT, 1: OUT, 2: IN}
    assert stand(states) == [((3,), "rank 3 did not arrive within 9 s; rank 2 waited for it")]
    assert stand({0: IN, 1: IN, 2: OUT, 3: OUT}) == [
        ((0, 1), "all arrived, and none came through within 9 s: it hangs between them")
    ]
    assert stand({0: OUT, 1: IN, 2: OUT, 3: OUT}) == [((1,), "rank 1 did not come through within 9 s, rank 0 did")]
    assert stand({2: OUT, 3: OUT}) == [((0, 1), "ranks 0, 1 did not arrive within 9 s")]
    # What failed is reported by itself, and who is in a group with it waits for it.
    assert stand({0: FAILED, 1: IN, 2: OUT, 3: OUT}) == []


def test_of_neighbors_the_pair_that_hangs_is_named() -> None:
    """Link 1-2 hangs, 3 waits for 2 in the next pair."""
    pairs = [[0, 1], [1, 2], [2, 3]]
    now = {0: (0, 1), 1: (1, 2), 2: (1, 2), 3: (2, 3)}
    states = {0: OUT, 1: IN, 2: IN, 3: IN}
    found = stand(states, "send and receive", now, kind=STAGES, groups=pairs)
    assert found == [((1, 2), "all arrived, and none came through within 9 s: it hangs between them")]


def test_groups_of_one_are_not_tested() -> None:
    assert kinds(Topology(1, 1, 1)) == {}
    assert list(kinds(Topology(1, 2, 1))) == [ALL, DATA]
    assert neighbors(STAGES, Topology(2, 2, 1)) == [(0, 2), (1, 3)]
    assert neighbors(DATA, Topology(1, 2, 1)) == [(0, 1)]
    assert neighbors(DATA, Topology(1, 3, 1)) == [(0, 1), (1, 2), (2, 0)]


def test_names_and_units() -> None:
    assert name_ranks([3]) == "rank 3"
    assert name_ranks([2, 3]) == "ranks 2, 3"
    assert name_ranks([8, 0, 1, 2, 3]) == "ranks 0-3, 8"
    assert [format_rate(rate) for rate in (12.0, 3.4e6, 5.67e9, 3e12)] == [
        "12 B/s",
        "3.4 MB/s",
        "5.67 GB/s",
        "3e+03 GB/s",
    ]
    assert [format_time(seconds) for seconds in (1.5e-5, 0.25)] == ["15 us", "250 ms"]
