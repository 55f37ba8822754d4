"""Which rank sits where, what starts it, and the same run on fewer hosts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from megachar.base.errors import PlatformError
from megachar.config.loading import load_experiment
from megachar.launching.hostfile import Host, read_hostfile
from megachar.launching.layout import layout_rows, stage_layers
from megachar.launching.plan import LaunchPlan
from megachar.launching.starting import command_of, prepare, record_start, shell_command
from megachar.parallel.topology import Coordinates


def make_plan(output: Path, hosts: dict[str, int], *overrides: str, launcher: str = "ssh") -> LaunchPlan:
    settings = (f"output={output}", "device=cpu", *overrides)
    named = tuple(Host(name, slots) for name, slots in hosts.items())
    return LaunchPlan(load_experiment("quickstart", settings), "quickstart", settings, named, launcher)


WIDE = ("model.num_layers=5", "parallel.pipe=2", "parallel.tensor=2", "parallel.data=2", "batch.global_size=64",
        "model.width=32", "model.num_heads=2", "model.local_offsets=[]")  # fmt: skip


def test_ranks_fill_the_hosts_in_their_order(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, {"b": 4, "a": 3, "c": 8, "d": 8}, *WIDE)
    assert [(host.name, host.slots) for host in plan.used_hosts()] == [("b", 4), ("a", 3), ("c", 1)]
    places = plan.ranks()
    assert [place.host for place in places] == ["b"] * 4 + ["a"] * 3 + ["c"]
    assert [place.rank for place in places] == list(range(8))
    assert places[0].at == Coordinates(pipe=0, data=0, tensor=0)
    assert places[3].at == Coordinates(pipe=0, data=1, tensor=1)
    assert places[4].at == Coordinates(pipe=1, data=0, tensor=0)
    for host in ("a", "b", "c"):
        devices = sorted(place.local_rank for place in places if place.host == host)
        assert devices == list(range(len(devices)))


def test_the_layout_in_words(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, {"a": 4, "b": 4}, *WIDE)
    rows = layout_rows(plan)
    assert [row.layers for row in rows] == ["embedding, blocks 0-2"] * 4 + ["blocks 3-4, head"] * 4
    assert (rows[5].host, rows[5].device, rows[5].rank) == ("b", "cpu", 5)
    assert (rows[5].replica, rows[5].stage, rows[5].tensor_part) == ("0 of 2", "1 of 2", "1 of 2")
    assert stage_layers(load_experiment("t64", ["parallel.pipe=1"]), 0) == "embedding, blocks 0-63, head"
    assert stage_layers(load_experiment("mlstm-20m"), 0) == "layer 0, classifier"


def test_too_few_slots(tmp_path: Path) -> None:
    error = r"pipe 2 x tensor 2 x data 2 needs 8 slots and there are 3 \(a slots=2, b slots=1\); name more hosts"
    with pytest.raises(PlatformError, match=error):
        make_plan(tmp_path, {"a": 2, "b": 1}, *WIDE).ranks()


def test_on_fewer_hosts_replicas_go_and_the_batch_stays(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, {"a": 2, "b": 2, "c": 2, "d": 2}, "parallel.pipe=2", "parallel.data=4",
                     "batch.micro_size=8", "batch.global_size=96")  # fmt: skip
    three = plan.on_hosts(plan.hosts[1:])
    assert three.experiment.parallel.data == 3
    assert three.experiment.batch == plan.experiment.batch
    assert [place.host for place in three.ranks()] == ["b", "b", "c", "c", "d", "d"]
    assert three.overrides[-1] == "parallel.data=3"
    assert plan.on_hosts(plan.hosts[:2]).experiment.parallel.data == 2
    assert plan.on_hosts(plan.hosts) == plan
    # Of 96 / 8 = 12 micro-batches, 5 replicas cannot have as many each; of 4, 3 cannot.
    four = make_plan(tmp_path, {"a": 4}, "parallel.pipe=1", "parallel.data=4", "batch.micro_size=8",
                     "batch.global_size=32")  # fmt: skip
    assert four.on_hosts((Host("a", 3),)).experiment.parallel.data == 2
    with pytest.raises(PlatformError, match="needs 8 slots and there are 1"):
        plan.on_hosts((Host("a", 1),))


def test_commands(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, {"a": 1, "b": 2})
    frozen = str(tmp_path / "quickstart" / "launch" / "experiment.yaml")
    known = replace(plan, addresses={"a": "10.0.0.7"})
    ssh = shell_command(known)
    assert ssh.endswith(f"launcher/train.py {frozen}")
    assert f"DS_ENV_FILE={tmp_path}/quickstart/launch/environment " in ssh
    assert "--master_addr 10.0.0.7 --force_multi" in ssh
    no_ssh = shell_command(replace(known, launcher="no_ssh", node_rank=1, resume=True))
    assert "--master_addr 10.0.0.7 --no_ssh --node_rank 1" in no_ssh
    assert no_ssh.endswith(f"{frozen} --resume")
    mpi = shell_command(replace(known, launcher="openmpi", master_port=1234))
    assert "MASTER_ADDR=10.0.0.7 MASTER_PORT=1234 mpirun -n 2 --host a:1,b:1 " in mpi
    assert " -x MASTER_ADDR -x MASTER_PORT " in mpi
    slurm = shell_command(replace(known, launcher="slurm"))
    assert f"SLURM_HOSTFILE={tmp_path}/quickstart/launch/slurm_hosts srun --ntasks 2 --nodes 2 " in slurm
    local = shell_command(replace(plan, hosts=(), launcher="local"))
    assert " -m megachar.launching.local --ranks 2 --port 29500 --device cpu " in local
    assert local.endswith(f"launcher/train.py {frozen}")


def test_what_is_frozen_in_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "WARN")
    plan = make_plan(tmp_path, {"a": 1, "b": 2})
    prepare(plan)
    prepare(plan)
    folder = tmp_path / "quickstart" / "launch"
    assert load_experiment(str(folder / "experiment.yaml")) == plan.experiment
    assert read_hostfile(folder / "hostfile") == (Host("a", 1), Host("b", 1))
    assert {"NCCL_DEBUG=WARN", "DS_ACCELERATOR=cpu"} <= set((folder / "environment").read_text().splitlines())
    record_start(plan)
    record_start(plan.on_hosts((Host("c", 2),)))
    starts = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [[host["name"] for host in start["hosts"]] for start in starts] == [["a", "b"], ["c"]]
    assert starts[0]["command"] == command_of(plan)
    assert starts[0]["ranks"][1] == {"rank": 1, "host": "b", "local_rank": 0, "at": {"pipe": 1, "data": 0, "tensor": 0}}


def test_a_run_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "quickstart").touch()
    plan = make_plan(tmp_path, {"a": 2})
    with pytest.raises(PlatformError, match=r"launch cannot be written: .*; free space, or set output=FOLDER"):
        prepare(plan)
    with pytest.raises(PlatformError, match="launch cannot be written"):
        record_start(plan)


def test_a_folder_that_a_remote_shell_would_take_apart(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "my runs", {"a": 2})
    with pytest.raises(PlatformError, match=r"my runs/.*holds characters that DeepSpeed's runner cannot pass"):
        command_of(plan)
