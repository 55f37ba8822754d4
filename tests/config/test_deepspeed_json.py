"""Which DeepSpeed JSONs are read, what is refused in them, and that DeepSpeed accepts whatever is not refused."""

import contextlib
import copy
import json
import random
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from megachar.base.errors import ConfigError
from megachar.config.deepspeed import (
    DS_CONFIGS,
    OWNED_BY_EXPERIMENT,
    load_engine_config,
    render_deepspeed_config,
)
from megachar.config.engine import Bf16Settings, EngineSettings, Fp16Settings, ZeroSettings
from megachar.config.experiment import Experiment
from megachar.config.loading import load_experiment
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
    nvme = {"device": "nvme", "nvme_path": "/x"}
    for value, offload in (({"device": "cpu"}, True), (nvme, True), ({"device": "none"}, False), ({}, False),
                           (None, False)):  # fmt: skip
        assert load_engine_config(ds_json({"zero_optimization": {"stage": 3, key: value}})).offload == offload


@pytest.mark.parametrize("name", ["fp64", "/nowhere/x.json"])
def test_missing_file(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"deepspeed={name}: .*\.json does not exist; take one of bf16_zero1, "):
        load_engine_config(name)


@pytest.mark.parametrize("name", ["x" * 5000, f"{'x' * 5000}.json"])
def test_a_name_too_long_for_the_file_system(name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: .*name too long"):
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
        ({"zero_optimization": 1}, r"zero_optimization = 1; it must be a JSON object"),
        ({"zero_optimization": True}, r"zero_optimization = True; it must be a JSON object"),
        ({"fp16": None}, r"fp16 = None; it must be a JSON object"),
        ({"bf16": [1]}, r"bf16 = \[1\]; it must be a JSON object"),
        ({"zero_optimization": {"stge": 1}}, r"zero_optimization\.stge is unknown; did you mean 'stage'\?"),
        ({"fp16": {"enable": True}}, r"fp16\.enable is unknown; did you mean 'enabled'\?"),
        ({"bf16": {"enable": True}}, r"bf16\.enable is unknown; did you mean 'enabled'\?"),
        ({"fp16": {"qqq": True}}, r"fp16\.qqq is unknown; known: consecutive_hysteresis, "),
        ({"zero_optimization": {"optimizer": 1}}, r"zero_optimization\.optimizer is unknown"),
        ({"fp16": {"enabled": True}, "bf16": {"enabled": True}}, r"enables both fp16 and bf16; keep one"),
        ({"zero_optimization": {"stage": 4}}, r"zero_optimization\.stage = 4; it must be less than or equal to 3"),
        ({"zero_optimization": {"stage": -1}}, r"zero_optimization\.stage = -1; it must be"),
        ({"zero_optimization": {"stage": "1"}}, r"zero_optimization\.stage = '1'; it must be"),
        ({"zero_optimization": {"stage": [1]}}, r"zero_optimization\.stage = \[1\]; it must be"),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": True}}, r"offload_optimizer"),
        ({"zero_optimization": {"reduce_bucket_size": 0}}, r"reduce_bucket_size = 0; it must be greater than or equal"),
        (
            {"zero_optimization": {"overlap_comm": "yes"}},
            r"zero_optimization\.overlap_comm = 'yes'; it must be a valid",
        ),
        (
            {"zero_optimization": {"offload_param": {"device": "gpu"}}},
            r"device = 'gpu'; it must be 'none', 'cpu' or 'nvme'",
        ),
        ({"zero_optimization": {"offload_param": {"device": "nvme"}}}, r"device = nvme needs nvme_path.* None"),
        (
            {"zero_optimization": {"offload_param": {"device": "nvme", "nvme_path": "~/x"}}},
            r"zero_optimization\.offload_param: device = nvme needs nvme_path, a folder from / on, and it is '~/x'",
        ),
        (
            {"zero_optimization": {"offload_param": {"devise": "cpu"}}},
            r"param\.devise is unknown; did you mean 'device'\?",
        ),
        ({"communication_data_type": "int8"}, r"communication_data_type = 'int8'; it must be 'fp32', 'fp16' or 'bf16'"),
        ({"gradient_predivide_factor": 0}, r"gradient_predivide_factor = 0; it must be greater than 0"),
        (
            {"gradient_predivide_factor": 2, "zero_optimization": {"stage": 3}},
            r"leave it out, or set reduce_scatter to false",
        ),
        ({"fp16": {"loss_scale": True}}, r"fp16\.loss_scale = True; it must be a valid number"),
        ('{"fp16": {"loss_scale": NaN}}', r"fp16\.loss_scale = nan; it must be"),
        ({"dump_state": 2, "prescale_gradients": None}, r"prescale_gradients = None; .*dump_state = 2; "),
        ('{"fp16":' + "[" * 10**5, r"engine\.json is not valid JSON: "),
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
    assert not EngineSettings.model_fields.keys() & OWNED_BY_EXPERIMENT.keys()


def test_rendered_values(draw: random.Random, ds_json: WriteJson) -> None:
    micro, data, steps = draw.randint(1, 9), draw.randint(1, 4), draw.randint(1, 5)
    raw = {"zero_optimization": {"stage": 1, "reduce_bucket_size": 7}, "prescale_gradients": True, "dump_state": True}
    name, size = ds_json(raw), micro * data * steps
    overrides = [f"batch.micro_size={micro}", f"batch.global_size={size}", f"parallel.data={data}"]
    experiment = load_experiment(BASE, [*overrides, f"deepspeed={name}", "training.gradient_clipping=0.25"])
    rendered = render_deepspeed_config(experiment)
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
    rendered = render_deepspeed_config(load_experiment("t12", ["deepspeed=fp32"]))
    assert rendered["gradient_clipping"] == 0.0  # DeepSpeed's default is 1.0
    assert rendered["zero_optimization"] == {"stage": 0}
    assert rendered.keys() - {"zero_optimization", "prescale_gradients"} <= OWNED_BY_EXPERIMENT.keys()


@pytest.mark.parametrize(
    ("content", "needs"),
    [
        ({"zero_optimization": {"zero_quantized_weights": True}}, ("zero_optimization.zero_quantized_weights",)),
        ({"zero_optimization": {"offload_optimizer": {"device": "nvme", "nvme_path": "/x"}}, "aio": {"use_gds": True}},
         ("zero_optimization.offload_optimizer.device = nvme", "aio.use_gds")),
        ({"fp16": {"enabled": True, "loss_scale": "auto"}, "zero_optimization": {"reduce_bucket_size": 5e8}}, ()),
    ],
)  # fmt: skip
def test_what_needs_a_gpu(content: Any, needs: tuple[str, ...], ds_json: WriteJson) -> None:
    assert load_engine_config(ds_json(content)).needs_gpu == needs


VALUES = (
    None, True, False, -1, 0, 1, 2, 0.5, 5e8, 1e30, 2**64, float("nan"), float("inf"), "", "auto", "yes", "cpu", "fp16",
    [], [1], {}, {"enabled": True}, {"device": "cpu"},
)  # fmt: skip


def mutant(draw: random.Random) -> dict[str, Any]:
    """A DeepSpeed JSON, some values of which are anything."""
    raw: dict[str, Any] = {"zero_optimization": {"stage": draw.randint(0, 3)}}
    for _ in range(draw.randint(1, 2)):
        section, model = raw, EngineSettings
        if draw.random() < 0.8:
            name, model = draw.choice(
                [("zero_optimization", ZeroSettings), ("fp16", Fp16Settings), ("bf16", Bf16Settings)]
            )
            section = raw.setdefault(name, {})
            section = section if isinstance(section, dict) else {}
        section[draw.choice(sorted(model.model_fields))] = copy.deepcopy(draw.choice(VALUES))  # may be filled later
    return raw


def under(experiment: Experiment, deepspeed: str) -> Experiment:
    return experiment.model_copy(update={"deepspeed": deepspeed})


@pytest.fixture(scope="module")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Rendered from random JSONs that are not refused."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    draw, path = random.Random(seed), tmp_path_factory.mktemp("mutants") / "engine.json"
    experiment, accepted = load_experiment(BASE, ["parallel.data=4", "parallel.pipe=1"]), dict[str, Any]()
    for number in range(1000):
        path.write_text(json.dumps(mutant(draw)))
        with contextlib.suppress(ConfigError):
            accepted[f"mutant {number}"] = render_deepspeed_config(under(experiment, str(path)))
    return accepted


@pytest.fixture(scope="module")
def deepspeed_says(mutants: dict[str, Any]) -> dict[str, Any]:
    """What the installed DeepSpeed makes of our keys and of every rendered configuration, at 4 data ranks."""
    experiment = load_experiment(BASE, ["parallel.data=4", "parallel.pipe=1"])
    rendered = {name: render_deepspeed_config(under(experiment, name)) for name in NAMES} | mutants
    question = json.dumps({"configs": rendered, "keys": sorted(EngineSettings.model_fields)})
    done = subprocess.run(
        [sys.executable, str(PROBE)], input=question, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", NAMES)
def test_deepspeed_accepts_what_is_rendered(name: str, deepspeed_says: dict[str, Any]) -> None:
    assert deepspeed_says["errors"][name] is None


def test_deepspeed_accepts_every_value_that_is_not_refused(
    mutants: dict[str, Any], deepspeed_says: dict[str, Any]
) -> None:
    assert len(mutants) > 30
    assert {json.dumps(mutants[name]): deepspeed_says["errors"][name] for name in mutants
            if deepspeed_says["errors"][name] is not None} == {}  # fmt: skip


def test_rendered_keys_are_known_to_deepspeed(deepspeed_says: dict[str, Any]) -> None:
    rendered = render_deepspeed_config(load_experiment(BASE, ["deepspeed=fp32"]))
    assert rendered.keys() <= set(deepspeed_says["read"])


def test_engine_keys_are_known_to_deepspeed(deepspeed_says: dict[str, Any]) -> None:
    assert not EngineSettings.model_fields.keys() - set(deepspeed_says["read"])


def test_engine_keys_are_not_removed_from_deepspeed(deepspeed_says: dict[str, Any]) -> None:
    assert deepspeed_says["removed"] == []


@pytest.mark.parametrize(("section", "ours"), [("zero", ZeroSettings), ("fp16", Fp16Settings), ("bf16", Bf16Settings)])
def test_nested_keys_are_known_to_deepspeed(
    section: str, ours: type[BaseModel], deepspeed_says: dict[str, Any]
) -> None:
    assert ours.model_fields.keys() <= set(deepspeed_says[section])
