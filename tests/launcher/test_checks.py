"""What the hosts' answers mean, where bringing it about would take other machines."""

from dataclasses import replace

import pytest

from megachar.config.loading import load_experiment
from megachar.families.counting import count_parameters
from megachar.launching.checks import checkpoint_bytes, choose_addresses, compare_reports, reach_failures
from megachar.launching.gpus import count_visible
from megachar.launching.hostfile import Host
from megachar.launching.probe import Reach, Report

EXPERIMENT = load_experiment("quickstart", ["device=auto"])
HOSTS = (Host("a", 4), Host("b", 4))
GOOD = Report(
    host_name="a",
    versions={"python": "3.11.2", "torch": "2.13.0", "deepspeed": "0.19.8", "numpy": "2.2.0"},
    source="1234",
    engine="5678",
    data="9abc",
    num_gpus=0,
    addresses={"a": "127.0.1.1", "b": "10.0.0.2"},
    own_addresses=["127.0.0.1", "10.0.0.1", "192.168.0.1"],
    reached_at="192.168.0.1",
    folder_seen=True,
    free_bytes=10**9,
    missing_programs=[],
    ports=[1],
)
OTHER = replace(GOOD, host_name="b", addresses={"a": "10.0.0.1", "b": "127.0.1.1"}, own_addresses=["10.0.0.2"])


def problems(first: Report, second: Report, needed_bytes: int = 1) -> list[tuple[str, str]]:
    failures = compare_reports({"a": first, "b": second}, HOSTS, EXPERIMENT, needed_bytes)
    return [(failure.host, f"{failure.check}: {failure.problem}") for failure in failures]


def test_hosts_that_are_alike_are_fine() -> None:
    assert problems(GOOD, OTHER) == []
    # A patch release of Python changes nothing.
    assert problems(GOOD, replace(OTHER, versions={**GOOD.versions, "python": "3.11.9"})) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"versions": {**GOOD.versions, "python": "3.12.2"}},
            "python: 3.12, but a has 3.11; install python 3.11 there",
        ),
        ({"versions": {**GOOD.versions, "numpy": ""}}, "numpy: not installed, but a has 2.2.0"),
        ({"num_gpus": 2}, "slots: 4 ranks are to run there on 2 GPUs; set slots=2, or device=cpu"),
    ],
)
def test_what_differs(changes: dict[str, object], problem: str) -> None:
    found = problems(replace(GOOD, num_gpus=4 if "num_gpus" in changes else 0), replace(OTHER, **changes))  # type: ignore[arg-type]
    assert [host for host, _ in found] == ["b"]
    assert found[0][1].startswith(problem)


@pytest.mark.parametrize(
    ("pipe", "data", "num_gpus", "mend"),
    [
        (1, 2, 1, "set parallel.data=1, or device=cpu"),
        (1, 6, 5, "set parallel.data=3, or device=cpu"),  # 5 and 4 replicas would not share the batch of 6
        (2, 2, 3, "set parallel.data=1, or device=cpu"),
        (2, 1, 1, "set device=cpu"),
    ],
)
def test_without_a_hostfile_the_mend_is_a_setting(pipe: int, data: int, num_gpus: int, mend: str) -> None:
    settings = [f"parallel.pipe={pipe}", f"parallel.data={data}", f"batch.global_size={data}", "batch.micro_size=1"]
    host, report = Host("localhost", pipe * data), replace(GOOD, num_gpus=num_gpus)
    (failure,) = compare_reports({"localhost": report}, (host,), load_experiment("small", settings), 1)
    assert failure.problem == f"{pipe * data} ranks are to run there on {num_gpus} GPUs; {mend}"


@pytest.mark.parametrize(
    ("visible", "count"),
    [(None, 4), ("0,1", 2), ("3", 1), ("", 0), ("-1", 0), ("0,7,1", 1), ("GPU-8a1,MIG-2b3", 2), ("NoDevFiles", 0)],
)
def test_only_visible_gpus_count(visible: str | None, count: int) -> None:
    assert count_visible(4, visible) == count


def test_the_disk_must_hold_the_checkpoints_to_come() -> None:
    values = sum(part.training for part in count_parameters(EXPERIMENT.model, EXPERIMENT.auxiliary))
    assert checkpoint_bytes(EXPERIMENT) == 3 * 4 * values  # AdamW: two moments beside the weights
    t64 = load_experiment("t64")  # SGD, whose momentum is saved whatever it is
    values = sum(part.training for part in count_parameters(t64.model, t64.auxiliary))
    assert checkpoint_bytes(t64) == 2 * 4 * values
    assert problems(GOOD, OTHER, 10**9) == []
    ((host, problem),) = problems(GOOD, replace(OTHER, free_bytes=2 * 10**8), 10**9)
    assert host == "b"
    assert problem.startswith("disk space: 0.2 GB are free, and the checkpoints still to come take 1 GB")
    assert "training.keep_checkpoints = 2, the best, and one more while it is written" in problem
    assert EXPERIMENT.training.max_checkpoints == 4
    assert load_experiment("t64", ["training.keep_best_checkpoint=false"]).training.max_checkpoints == 3


def test_the_addresses_the_others_use() -> None:
    addresses, failures = choose_addresses({"a": GOOD, "b": OTHER})
    assert (addresses, failures) == ({"a": "10.0.0.1", "b": "10.0.0.2"}, [])
    assert choose_addresses({"a": GOOD}) == ({"a": "127.0.0.1"}, [])
    # Names that only ssh knows: the address that ssh came to.
    known_to_ssh = {"a": replace(GOOD, addresses={}), "b": replace(OTHER, addresses={})}
    assert choose_addresses(known_to_ssh)[0] == {"a": "192.168.0.1", "b": "10.0.0.2"}


def test_names_that_lead_elsewhere() -> None:
    _, (failure,) = choose_addresses({"a": GOOD, "b": replace(OTHER, addresses={"a": "127.0.1.1"})})
    assert (failure.host, failure.check) == ("b", "host names")
    assert failure.problem.startswith("it takes a for 127.0.1.1, but a is at 10.0.0.1, 192.168.0.1; mend /etc/hosts")
    nameless = replace(GOOD, addresses={}, reached_at="")
    _, (failure,) = choose_addresses({"a": nameless, "b": replace(OTHER, addresses={})})
    assert failure.host == "a"
    assert failure.problem.startswith("the other hosts do not know its name a; add it to /etc/hosts or DNS there")


def test_ways_that_are_closed() -> None:
    reaches = {"a": Reach("eth0", {}), "b": Reach("", {"way to a": "10.0.0.1 port 9: timed out"})}
    (failure,) = reach_failures(reaches)
    assert (failure.host, failure.check) == ("b", "way to a")
    assert failure.problem == "10.0.0.1 port 9: timed out; let it through the firewalls"
