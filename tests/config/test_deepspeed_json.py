import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megachar.config.deepspeed import (
    BF16_KEYS,
    DS_CONFIGS,
    ENGINE_KEYS,
    FP16_KEYS,
    OWNED_BY_EXPERIMENT,
    ZERO_KEYS,
    load_engine_config,
    render_deepspeed_config,
)
from megachar.config.loading import load_experiment
from megachar.errors import ConfigError
from tests.config.conftest import BASE, WriteJson

NAMES = sorted(path.stem for path in DS_CONFIGS.glob("*.json"))
PROBE = Path(__file__).with_name("deepspeed_probe.py")


@pytest.mark.parametrize("name", NAMES)
def test_shipped_files_are_what_their_names_say(name: str) -> None:
    config = load_engine_config(name)
    precision, _, rest = name.partition("_zero")
    assert config.precision == precision
    assert config.zero_stage == int(rest[:1] or 0)
    assert config.offload == name.endswith("_offload")


def test_shipped_files() -> None:
    assert {"fp32", "fp32_zero1", "bf16_zero1", "bf16_zero2", "bf16_zero3", "fp16_zero1"} <= set(NAMES)


def test_defaults_of_an_empty_file(ds_json: WriteJson) -> None:
    config = load_engine_config(ds_json({}))
    assert (config.precision, config.zero_stage, config.offload, config.raw) == ("fp32", 0, False, {})


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_switched_off_is_fp32(precision: str, ds_json: WriteJson) -> None:
    assert load_engine_config(ds_json({precision: {"enabled": False}})).precision == "fp32"


@pytest.mark.parametrize("key", ["offload_param", "offload_optimizer"])
def test_offload(key: str, ds_json: WriteJson) -> None:
    for value, offload in (({"device": "cpu"}, True), ({"device": "nvme"}, True), ({"device": "none"}, False),
                           ({}, False), (None, False)):  # fmt: skip
        assert load_engine_config(ds_json({"zero_optimization": {"stage": 3, key: value}})).offload == offload


@pytest.mark.parametrize("name", ["fp64", "/nowhere/x.json"])
def test_missing_file(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"deepspeed={name}: .*\.json does not exist; take one of bf16_zero1, "):
        load_engine_config(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"engine\.json is not valid JSON: "),
        ("", r"engine\.json is not valid JSON: "),
        ([1], r"engine\.json holds list, not a JSON object of DeepSpeed settings"),
        ({"zero_optimisation": {}}, r"engine\.json: zero_optimisation is unknown; did you mean 'zero_optimization'\?"),
        ({"qqq": 1}, r"engine\.json: qqq is unknown; known: aio, "),
        ({"amp": {"enabled": True}}, r"amp is unknown"),
        ({"zero_optimization": 1}, r"zero_optimization = 1 is not a JSON object"),
        ({"zero_optimization": True}, r"zero_optimization = True is not a JSON object"),
        ({"fp16": None}, r"fp16 = None is not a JSON object"),
        ({"bf16": [1]}, r"bf16 = \[1\] is not a JSON object"),
        ({"zero_optimization": {"stge": 1}}, r"zero_optimization\.stge is unknown; did you mean 'stage'\?"),
        ({"fp16": {"enable": True}}, r"fp16\.enable is unknown; did you mean 'enabled'\?"),
        ({"bf16": {"enable": True}}, r"bf16\.enable is unknown; did you mean 'enabled'\?"),
        ({"fp16": {"qqq": True}}, r"fp16\.qqq is unknown; known: consecutive_hysteresis, "),
        ({"zero_optimization": {"optimizer": 1}}, r"zero_optimization\.optimizer is unknown"),
        ({"fp16": {"enabled": True}, "bf16": {"enabled": True}}, r"enables both fp16 and bf16; keep one"),
        ({"zero_optimization": {"stage": 4}}, r"zero_optimization\.stage = 4; it must be 0, 1, 2 or 3"),
        ({"zero_optimization": {"stage": -1}}, r"zero_optimization\.stage = -1; it must be"),
        ({"zero_optimization": {"stage": "1"}}, r"zero_optimization\.stage = '1'; it must be"),
        ({"zero_optimization": {"stage": [1]}}, r"zero_optimization\.stage = \[1\]; it must be"),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": True}}, r"offload_optimizer"),
        ({"fp16": {"enabled": "false"}, "zero_optimization": {"stage": 1}}, r"fp16\.enabled"),
    ],
)
def test_bad_content(content: Any, message: str, ds_json: WriteJson) -> None:
    with pytest.raises(ConfigError, match=message):
        load_engine_config(ds_json(content))


@pytest.mark.parametrize(
    "key",
    [
        "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping",
        "optimizer", "scheduler", "steps_per_print", "seed", "pipeline", "activation_checkpointing",
        "tensor_parallel", "data_types", "tensorboard", "csv_monitor", "wandb", "zero_allow_untested_optimizer",
        "zero_force_ds_cpu_optimizer",
    ],
)  # fmt: skip
def test_owned_keys(key: str, ds_json: WriteJson) -> None:
    with pytest.raises(ConfigError, match=rf"'{key}' is owned by the experiment \(.+\); remove it from the JSON"):
        load_engine_config(ds_json({key: 1}))


def test_owners_exist() -> None:
    """Every owner the message names is a setting of the experiment."""
    values = load_experiment(BASE).model_dump()
    for owner in OWNED_BY_EXPERIMENT.values():
        if owner.startswith("nothing: "):
            continue
        for setting in owner.replace(" and ", ", ").split(", "):
            section, _, key = setting.partition(".")
            assert section in values, setting
            assert not key or key in values[section], setting


def test_no_key_has_two_owners() -> None:
    assert not ENGINE_KEYS & OWNED_BY_EXPERIMENT.keys()


def test_rendered_values(draw: random.Random, ds_json: WriteJson) -> None:
    micro, data, steps = draw.randint(1, 9), draw.randint(1, 4), draw.randint(1, 5)
    raw = {"zero_optimization": {"stage": 1, "reduce_bucket_size": 7}, "prescale_gradients": True, "dump_state": True}
    name, size = ds_json(raw), micro * data * steps
    overrides = [f"batch.micro_size={micro}", f"batch.global_size={size}", f"parallel.data={data}"]
    experiment = load_experiment(BASE, [*overrides, f"deepspeed={name}", "training.gradient_clipping=0.25"])
    rendered = render_deepspeed_config(experiment, load_engine_config(name))
    assert raw.items() <= rendered.items()
    assert rendered["train_batch_size"] == size
    assert rendered["train_micro_batch_size_per_gpu"] == micro
    assert rendered["gradient_accumulation_steps"] == steps
    assert rendered["gradient_clipping"] == 0.25
    assert rendered["data_types"] == {"grad_accum_dtype": "fp32"}
    assert rendered["pipeline"]["use_reentrant"] is False
    assert rendered["pipeline"]["pipe_partitioned"] is False
    assert rendered["pipeline"]["grad_partitioned"] is False


def test_defaults_that_matter_are_written_out() -> None:
    rendered = render_deepspeed_config(load_experiment("t12"), load_engine_config("fp32"))
    assert rendered["gradient_clipping"] == 0.0  # DeepSpeed's default is 1.0
    assert rendered["zero_optimization"] == {"stage": 0}
    assert rendered.keys() - {"zero_optimization", "prescale_gradients"} <= OWNED_BY_EXPERIMENT.keys()


@pytest.fixture(scope="module")
def deepspeed_says() -> dict[str, Any]:
    """What the installed DeepSpeed makes of our keys and of every rendered configuration, at 4 data ranks."""
    experiment = load_experiment(BASE, ["parallel.data=4", "parallel.pipe=1"])
    rendered = {name: render_deepspeed_config(experiment, load_engine_config(name)) for name in NAMES}
    question = json.dumps({"configs": rendered, "keys": sorted(ENGINE_KEYS)})
    done = subprocess.run(
        [sys.executable, str(PROBE)], input=question, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", NAMES)
def test_deepspeed_accepts_what_is_rendered(name: str, deepspeed_says: dict[str, Any]) -> None:
    assert deepspeed_says["errors"][name] is None


def test_rendered_keys_are_known_to_deepspeed(deepspeed_says: dict[str, Any]) -> None:
    rendered = render_deepspeed_config(load_experiment(BASE), load_engine_config("fp32"))
    assert rendered.keys() <= set(deepspeed_says["read"])


def test_engine_keys_are_known_to_deepspeed(deepspeed_says: dict[str, Any]) -> None:
    assert not ENGINE_KEYS - set(deepspeed_says["read"])


def test_engine_keys_are_not_removed_from_deepspeed(deepspeed_says: dict[str, Any]) -> None:
    assert deepspeed_says["removed"] == []


@pytest.mark.parametrize(("section", "ours"), [("zero", ZERO_KEYS), ("fp16", FP16_KEYS), ("bf16", BF16_KEYS)])
def test_nested_keys_are_known_to_deepspeed(section: str, ours: set[str], deepspeed_says: dict[str, Any]) -> None:
    assert ours <= set(deepspeed_says[section])
