"""Settings that do not fit each other. Where a message says `set KEY=VALUE`, that must mend it."""

import random
import re
from typing import Any

import pytest

from megachar.base.errors import ConfigError
from megachar.config.loading import load_experiment
from tests.config.conftest import BASE, WriteJson

OFFLOAD = {"offload_optimizer": {"device": "cpu"}}


def refused(overrides: list[str], message: str) -> str:
    """The message with which the base with overrides is refused."""
    with pytest.raises(ConfigError, match=message) as caught:
        load_experiment(BASE, overrides)
    return str(caught.value)


MISFITS = [
    ("model.width=100 model.num_heads=3", r"model\.width = 100 is not divisible by model\.num_heads = 3; "),
    ("model.num_layers=3 parallel.pipe=4", r"model\.num_layers = 3 is less than parallel\.pipe = 4: .*needs a layer"),
    ("model.num_heads=2 parallel.tensor=4", r"model\.num_heads = 2 is not divisible by parallel\.tensor = 4; "),
    ("model.feed_forward_width=255 parallel.tensor=2", r"model\.feed_forward_width = 255 .*parallel\.tensor = 2; "),
    ("model.vocabulary_size=205 parallel.tensor=2", r"model\.vocabulary_size = 205 .*parallel\.tensor = 2; "),
    ("model.width=96 model.num_heads=6 parallel.tensor=4", r"model\.num_heads = 6 .*parallel\.tensor = 4; "),
    ("batch.global_size=33", r"batch\.global_size = 33 .*parallel\.data = 8 x 1 = 8; set batch\.global_size=32$"),
    ("batch.global_size=6", r"batch\.global_size = 6 is not a multiple .*; set batch\.global_size=8$"),
    ("batch.global_size=32 parallel.data=3", r"= 8 x 3 = 24; set batch\.global_size=24$"),
    ("schedule.warmup_steps=400", r"schedule\.warmup_steps = 400 leaves nothing of training\.total_steps = 400; "),
    ("training.total_steps=1", r"schedule\.warmup_steps = 20 leaves nothing of training\.total_steps = 1; "),
    ("auxiliary.num_targets=64", r"auxiliary\.num_targets = 64 is not less than model\.context = 64; "),
    ("model.context=2", r"auxiliary\.num_targets = 2 is not less than model\.context = 2; "),
    ("deepspeed=fp32_zero2", r"ZeRO stage 2 \(fp32_zero2\) does not work with parallel\.pipe = 2: .*ZeRO stage 1"),
    ("deepspeed=fp32_zero3", r"ZeRO stage 3 \(fp32_zero3\) does not work with parallel\.pipe = 2: "),
]


@pytest.mark.parametrize(("overrides", "message"), MISFITS)
def test_misfits(overrides: str, message: str) -> None:
    refused(overrides.split(), message)


@pytest.mark.parametrize(("overrides", "message"), MISFITS)
def test_the_mend_works(overrides: str, message: str) -> None:
    given = overrides.split()
    mends = re.findall(r"set ([\w.]+=[\w.]+)", refused(given, message))
    assert mends
    for mend in mends:
        load_experiment(BASE, [*given, mend])


def test_zero_that_does_not_fit(ds_json: WriteJson) -> None:
    name = ds_json({"zero_optimization": {"stage": 2, "ignore_unused_parameters": False}})
    given = [f"deepspeed={name}", "parallel.pipe=1"]
    refused([*given, "auxiliary.intermediate_layers=true"], "ends a run when the first intermediate layer falls silent")
    load_experiment(BASE, [*given, "auxiliary.intermediate_layers=false"])
    name = ds_json({"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}})
    refused([f"deepspeed={name}", "parallel.pipe=1"], r"offload_param .* needs ZeRO stage 3 and has 2")
    name = ds_json({"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 2}})
    given = [f"deepspeed={name}", "parallel.pipe=1", "batch.global_size=48"]
    refused([*given, "parallel.data=3"], r"zero_hpz_partition_size = 2 .* does not divide parallel\.data = 3, ")
    refused([*given, "parallel.tensor=2", "parallel.data=2"], r"or parallel\.tensor = 2 cuts what it would share")
    load_experiment(BASE, [*given, "parallel.data=2"])


def test_more_processes_than_anybody_has() -> None:
    refused(["parallel.data=16384", "parallel.pipe=2"], "are 32,768 processes; set fewer, 16,384 at most")


def test_bounds_that_are_allowed() -> None:
    for overrides in (
        ["parallel.pipe=12"],
        ["schedule.warmup_steps=399"],
        ["auxiliary.num_targets=63"],
        ["parallel.tensor=2"],
        ["deepspeed=fp32_zero1"],
        ["deepspeed=fp32_zero3", "parallel.pipe=1"],
        ["deepspeed=bf16_zero3_offload", "parallel.pipe=1"],
        ["batch.global_size=96", "parallel.data=3"],
        ["training.total_steps=1", "schedule.warmup_steps=0"],
    ):
        load_experiment(BASE, overrides)


def test_batch_arithmetic(draw: random.Random) -> None:
    """Accepted exactly when every data rank gets the same number of whole micro-batches; the mend is the nearest."""
    micro, data, size = draw.randint(1, 9), draw.randint(1, 9), draw.randint(1, 200)
    overrides = [f"batch.micro_size={micro}", f"batch.global_size={size}", f"parallel.data={data}"]
    if size % (micro * data) == 0:
        assert load_experiment(BASE, overrides).batch.num_micro_batches == size // micro
        return
    mend = re.findall(r"set batch\.global_size=(\d+)$", refused(overrides, r"is not a multiple"))
    nearest = int(mend[0])
    load_experiment(BASE, [*overrides, f"batch.global_size={nearest}"])
    assert abs(nearest - size) <= max(micro * data / 2, micro * data - size)


def test_offload_with_pipe(ds_json: WriteJson) -> None:
    path = ds_json({"zero_optimization": {"stage": 1, **OFFLOAD}})
    message = refused([f"deepspeed={path}"], r"offload \(.*engine\.json\) does not work with parallel\.pipe = 2; ")
    assert "set parallel.pipe=1" in message


@pytest.mark.parametrize(("key", "value"), [("wall_clock_breakdown", True), ("flops_profiler", {"enabled": True})])
def test_timers_of_a_pipeline(key: str, value: Any, ds_json: WriteJson) -> None:
    """DeepSpeed turns the first on where it finds the second."""
    path = ds_json({key: value})
    refused([f"deepspeed={path}"], rf"{key} \(.*engine\.json\) does not work with parallel\.pipe = 2, ")
    load_experiment(BASE, [f"deepspeed={path}", "parallel.pipe=1"])


@pytest.mark.parametrize("stage", [0, 1])
def test_offload_needs_zero_2(stage: int, ds_json: WriteJson) -> None:
    path = ds_json({"zero_optimization": {"stage": stage, **OFFLOAD}})
    refused([f"deepspeed={path}", "parallel.pipe=1"], rf"offload .*needs ZeRO stage 2 or 3 and has {stage}; set .* 2$")
    path = ds_json({"zero_optimization": {"stage": 2, **OFFLOAD}})
    load_experiment(BASE, [f"deepspeed={path}", "parallel.pipe=1"])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("zero", [{}, {"zero_optimization": {"stage": 0}}])
def test_half_precision_needs_zero(precision: str, zero: dict[str, object], ds_json: WriteJson) -> None:
    path = ds_json({precision: {"enabled": True}, **zero})
    refused([f"deepspeed={path}"], rf"{precision} \(.*engine\.json\) needs ZeRO stage 1 or more, .*stage to 1$")
    path = ds_json({precision: {"enabled": True}, "zero_optimization": {"stage": 1}})
    load_experiment(BASE, [f"deepspeed={path}"])
