"""`megachar plan` as a user calls it: what it shows, writes and draws, and what it refuses."""

import re
from pathlib import Path

import pytest
import yaml

from megachar.cli import plan as command
from megachar.config.loading import load_experiment
from megachar.planning.devices import load_device
from tests.cli.test_commands import Call, call, corpus, refused

__all__ = ["call", "corpus"]


def test_the_best_layouts_and_why_others_are_refused(call: Call) -> None:
    done = call("plan", "t64-modern", "--devices", "64", "--device", "h100")
    assert done.status == 0, done.err
    for words in ("t64-modern on 64 x NVIDIA H100 SXM", "memory of the fullest device", "optimizer state",
                  "averaged over training", "of the peak", "device hours",
                  "model.num_heads = 8 is not divisible by parallel.tensor = 16"):  # fmt: skip
        assert words in done.out, words


def test_a_recurrent_model_is_cut_over_replicas_alone(call: Call) -> None:
    done = call("plan", "mlstm-20m", "--devices", "2", "--device", "a100")
    assert done.status == 0, done.err
    assert "1x1x" in done.out
    assert "a recurrent model is not cut" in done.out


def test_what_is_written_can_be_launched(call: Call, corpus: Path, tmp_path: Path) -> None:
    path, data = tmp_path / "best.yaml", f"data.path={corpus}"
    small = ("model.context=16", "batch.global_size=8", "name=of-a-plan", f"output={tmp_path}")
    done = call("plan", "quickstart", data, *small, "parallel.pipe=2", "--devices", "2", "--device", "cpu",
                "--write", str(path))  # fmt: skip
    assert done.status == 0, done.err
    assert f"megachar launch {path}" in done.out
    written = load_experiment(str(path))
    assert (written.parallel.pipe, written.model.width, written.name) == (2, 96, "of-a-plan")
    assert yaml.safe_load(path.read_text())["preset"] == "quickstart"
    assert call("launch", str(path), "--dry-run").status == 0


def test_a_plan_of_a_file_and_a_deepspeed_json_of_ones_own(call: Call, tmp_path: Path) -> None:
    engine, source, path = tmp_path / "own.json", tmp_path / "mine.yaml", tmp_path / "best.yaml"
    engine.write_text('{"zero_optimization": {"stage": 1}, "bf16": {"enabled": true}}')
    source.write_text("preset: small\nmodel: {num_layers: 8}\n")
    done = call("plan", str(source), f"deepspeed={engine}", "--devices", "2", "--write", str(path))
    assert done.status == 0, done.err
    written = load_experiment(str(path))
    assert (written.model.num_layers, written.deepspeed) == (8, str(engine))


def test_hosts_are_counted(call: Call, tmp_path: Path) -> None:
    hostfile = tmp_path / "hosts"
    hostfile.write_text("node1 slots=4\nnode2 slots=4\n")
    assert "on 8 x NVIDIA" in call("plan", "t12-modern", "--hostfile", str(hostfile)).out


def test_all_layouts_are_listed(call: Call) -> None:
    short, long = (call("plan", "small", "--devices", "2", *more).out for more in ((), ("--all",)))
    assert len(long.splitlines()) > 2 * len(short.splitlines())
    fitting, out = (int(number.replace(",", "")) for number in re.findall(r"([\d,]+) (?:layouts fit|refused)", long))
    assert long.count("\nrefused: ") == out
    assert len(re.findall(r"\d+x\d+x\d+", long)) == fitting


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_the_schedule_is_drawn(call: Call, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"schedule.{suffix}"
    done = call("plan", "quickstart", "parallel.pipe=4", "--devices", "4", "--device", "cpu", "--picture", str(path))
    assert done.status == 0, done.err
    data = path.read_bytes()
    assert data.startswith({"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[suffix])
    if suffix == "svg":
        assert b"backward" in data


def test_what_does_not_fit_says_by_how_much(call: Call, tmp_path: Path) -> None:
    tiny = load_device("h100").model_copy(update={"memory_bytes": 1e9})
    path = tmp_path / "devices.yaml"
    command.save_device("tiny", tiny, path)
    done = call("plan", "t64", "--devices", "1", "--device", "tiny", "--devices-file", str(path))
    refused(done, r"ConfigError: none of \d+ layouts on 1 device can be had; .*GB more than the 1\.0 GB of a device.*")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("t63",), ".*no preset is called 't63'.*"),
        (("t64", "--device", "h1000"), ".*no device is called 'h1000'.*"),
        (("t64", "parallel.pipe=65"), ".*none of .* layouts .* can be had.*"),
        (("t64", "parallel.pipe=3", "--devices", "4"), ".*what is given leaves none to try.*"),
        (("t64", "--picture", "schedule.gif"), r".*must end in one of \.png, \.svg, \.pdf.*"),
        (("t64", "--hostfile", "/nowhere"), ".*hostfile /nowhere cannot be read.*"),
        (("t64", "deepspeed=nothing"), ".*nothing.json does not exist.*"),
        (("t64", "data.path=/nowhere"), ".*nowhere.*"),
    ],
)
def test_what_is_refused(call: Call, arguments: tuple[str, ...], message: str) -> None:
    refused(call("plan", *arguments), message)


def test_a_name_for_the_file_that_launch_would_not_take(call: Call, tmp_path: Path) -> None:
    done = call("plan", "small", "--write", str(tmp_path / "best.json"))
    assert done.status == 2
    assert "must end in .yaml" in done.err


def test_the_machine_at_hand_is_kept_as_a_device(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from megachar.planning import calibration

    measured = load_device("cpu").model_copy(update={"description": "a core of somewhere", "per_node": 4})
    monkeypatch.setattr(calibration, "measure_device", lambda experiment: measured)
    path = tmp_path / "mine" / "devices.yaml"
    done = call("plan", "small", "--calibrate", "--devices-file", str(path))
    assert done.status == 0, done.err
    assert "GFLOP/s" in done.out
    planned = call("plan", "small", "--devices", "2", "--device", "here", "--devices-file", str(path))
    assert "on 2 x a core of somewhere" in planned.out
