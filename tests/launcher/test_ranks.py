"""Ranks by the words of every launcher, and the interface gloo is told."""

import os
from pathlib import Path

import pytest

from megachar.base.errors import PlatformError
from megachar.launching import network
from megachar.launching.hostfile import Host
from megachar.launching.launchers import openmpi
from megachar.launching.launchers.slurm import allocated_hosts, expand_counts, is_requeued
from megachar.launching.local import environment_of
from megachar.launching.network import interface_to, is_this_machine, resolve
from megachar.launching.ranks import rank_environment
from megachar.parallel.store import stay_on_loopback

MEET = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
OPENMPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4",
           "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}  # fmt: skip
SLURM = {"SLURM_PROCID": "3", "SLURM_LOCALID": "0", "SLURM_NODEID": "2", "SLURM_JOB_ID": "2007",
         "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2,1(x2)",
         "SLURM_STEP_NODELIST": "node[1-3]"}  # fmt: skip


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm's program that expands lists of hosts, where there is no Slurm."""
    program = tmp_path / "scontrol"
    program.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[1-3]" ] && printf "localhost\\nnode2\\nnode3\\n"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def test_a_single_process_needs_nothing() -> None:
    assert rank_environment({}) == {}


def test_deepspeed_and_torchrun_are_left_alone() -> None:
    given = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", **MEET}
    loopback = interface_to("127.0.0.1")
    deepspeed = rank_environment({**given, "LOCAL_SIZE": "2"})
    assert deepspeed == {"LOCAL_WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": loopback}
    torchrun = rank_environment({**given, "LOCAL_WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "eth7"})
    assert torchrun == {}
    # Under Slurm or mpirun, a launcher in between has the last word.
    assert not {"RANK", "LOCAL_WORLD_SIZE"} & rank_environment({**OPENMPI, **SLURM, **given}).keys()


def test_on_one_machine_ranks_meet_at_its_loopback() -> None:
    """Whatever the launcher says, so that nobody elsewhere can speak to them."""
    given = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1",
             "MASTER_PORT": "29500"}  # fmt: skip
    named = rank_environment(given)
    assert named == {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": interface_to("127.0.0.1")}
    assert "MASTER_ADDR" not in rank_environment({**given, "LOCAL_WORLD_SIZE": "1", "GLOO_SOCKET_IFNAME": "eth7"})


@pytest.mark.parametrize("launcher", ["megachar launch", "deepspeed", "torchrun", "several hosts"])
@pytest.mark.parametrize("own", [None, "eth7"])
def test_on_one_machine_gloo_and_nccl_stay_on_the_loopback(
    launcher: str, own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the environment that torch finds in a rank, unless the user names an interface."""
    given = {"megachar launch": environment_of(1, 2, 29500),
             "deepspeed": {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_SIZE": "2", **MEET},
             "torchrun": {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                          "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"},
             "several hosts": {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1",
                               "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "GLOO_SOCKET_IFNAME": "eth0"},
             }[launcher]  # fmt: skip
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**given, **({"NCCL_SOCKET_IFNAME": own} if own else {})}.items():
        monkeypatch.setenv(name, value)
    for name, value in rank_environment(os.environ).items():
        monkeypatch.setenv(name, value)
    stay_on_loopback()
    alone, loopback = launcher != "several hosts", interface_to("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == (loopback if alone else "eth0")
    assert os.environ.pop("NCCL_SOCKET_IFNAME", None) == (own or (loopback if alone else None))


def test_open_mpi() -> None:
    expected = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
    named = rank_environment({**OPENMPI, **MEET, "GLOO_SOCKET_IFNAME": "eth7"})
    assert named == expected
    alone = rank_environment({**OPENMPI, "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"})
    assert {name: alone[name] for name in MEET} == MEET
    assert alone["GLOO_SOCKET_IFNAME"] == interface_to("127.0.0.1")


def test_open_mpi_on_several_hosts_without_mpi4py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmpi, "find_spec", lambda name: None)
    with pytest.raises(
        PlatformError, match=r"4 ranks were started on several hosts, and no MASTER_ADDR .*-x MASTER_ADDR="
    ):
        rank_environment(OPENMPI)


@pytest.mark.usefixtures("scontrol")
def test_slurm() -> None:
    named = rank_environment({**SLURM, "GLOO_SOCKET_IFNAME": "eth7"})
    assert named == {"RANK": "3", "LOCAL_RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "1",
                     "MASTER_ADDR": "localhost", "MASTER_PORT": "29507"}  # fmt: skip
    # The batch script itself is no rank.
    assert rank_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"}) == {}


@pytest.mark.usefixtures("scontrol")
def test_the_hosts_of_an_allocation() -> None:
    allocation = {"SLURM_JOB_NODELIST": "node[1-3]", "SLURM_TASKS_PER_NODE": "8(x2),4"}
    assert allocated_hosts(allocation) == (Host("localhost", 8), Host("node2", 8), Host("node3", 4))
    with pytest.raises(PlatformError, match=r"SLURM_JOB_NODELIST is not set here; submit the job with sbatch"):
        allocated_hosts({})
    with pytest.raises(PlatformError, match="SLURM_TASKS_PER_NODE is not set here"):
        allocated_hosts({"SLURM_JOB_NODELIST": "node[1-3]"})
    with pytest.raises(PlatformError, match="`scontrol show hostnames node9` failed"):
        allocated_hosts({**allocation, "SLURM_JOB_NODELIST": "node9"})


def test_counts_of_slurm() -> None:
    assert expand_counts("2(x3),1") == [2, 2, 2, 1]
    assert expand_counts("8") == [8]


def test_a_master_that_is_its_own_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    several = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", **MEET}
    monkeypatch.setattr(network, "interface_addresses", lambda: {"lo": ["127.0.0.1"], "eth1": ["10.0.0.1"]})
    assert rank_environment(several)["GLOO_SOCKET_IFNAME"] == "eth1"
    monkeypatch.setattr(network, "interface_addresses", lambda: {"eth1": ["10.0.0.1"], "eth2": ["10.0.1.1"]})
    with pytest.raises(
        PlatformError, match=r"MASTER_ADDR=127.0.0.1 is the loopback .*: eth1, eth2; give MASTER_ADDR as"
    ):
        rank_environment(several)


def test_a_master_that_nobody_knows() -> None:
    with pytest.raises(PlatformError, match=r"does not know the host nowhere.invalid: .*add it to /etc/hosts"):
        rank_environment({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "nowhere.invalid", "MASTER_PORT": "1"})


def test_names_of_this_machine() -> None:
    assert resolve("127.0.0.1") == "127.0.0.1"
    assert is_this_machine("localhost")
    assert not is_this_machine("nowhere.invalid")


def test_a_requeued_job_knows_it() -> None:
    assert [is_requeued(environment) for environment in (
        {}, {"SLURM_RESTART_COUNT": "0"}, {"SLURM_RESTART_COUNT": "2"})] == [False, False, True]  # fmt: skip
