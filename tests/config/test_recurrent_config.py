"""Settings of recurrent models: described, bounded, and refused where they do not fit the others."""

import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from megachar.base.errors import ConfigError
from megachar.config.checks import check_experiment
from megachar.config.deepspeed import load_engine_config, render_deepspeed_config
from megachar.config.experiment import Experiment
from megachar.config.loading import load_experiment, parse_experiment
from megachar.families.recurrent.settings import RecurrentConfig
from megachar.optimizers.sgd import SgdConfig


def test_every_setting_is_described() -> None:
    assert all(field.description for field in RecurrentConfig.model_fields.values())


@pytest.mark.parametrize(
    "settings",
    [{"cell": "gru"}, {"output_gate": "none"}, {"hidden_size": 0}, {"hidden_dropout": 1.0}, {"family": "transformer"},
     {"vocabulary_size": 1}, {"segment_length": 0}, {"orthogonal_scale": -1.0}, {"width": 5}],
)  # fmt: skip
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        RecurrentConfig.model_validate(settings)


def experiment(**sections: Any) -> Experiment:
    values: dict[str, Any] = {"model": {"family": "recurrent"}, "data": {"order": "streams"},
                              "auxiliary": {"intermediate_layers": False, "num_targets": 1}}  # fmt: skip
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return parse_experiment(values, "test")


def test_a_recurrent_experiment_is_sound() -> None:
    check_experiment(experiment(model={"embedding_dropout": 0.5, "embedding_size": 400}))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"embedding_dropout": 0.5}}, r"embedding_dropout = 0.5 .*embedding_size = 0 .*set .*dropout=0"),
        ({"parallel": {"pipe": 2}}, r"parallel.pipe = 2 .* waits for the one before .*set parallel.pipe=1"),
        ({"parallel": {"tensor": 2}}, r"parallel.tensor = 2: .*parallel.tensor=1, and more parallel.data"),
        ({"parallel": {"activation_checkpoint_interval": 1}}, "activation_checkpoint_interval = 1 .*segment_length"),
        ({"auxiliary": {"num_targets": 2}}, "no auxiliary losses; set auxiliary.intermediate_layers=false"),
        ({"auxiliary": {"multiple_positions": False}}, "multiple_positions=true"),
        ({"data": {"order": "random"}}, "data.order = random.*set data.order=streams"),
        ({"data": {"windows": "document"}}, "data.windows = document.*set .*data.windows=stream"),
        ({"data": {"blend": [{"path": "a", "weight": 1}]}}, "data.blend of 1: .*set .*data.blend="),
        ({"schedule": {"shape": "exponential"}}, "step_factor = None and schedule.shape = exponential"),
        ({"schedule": {"step_factor": 0.9}}, "step_factor = 0.9 and schedule.shape = constant"),
        ({"training": {"early_stopping_patience": 3, "validation_interval": 0}}, "early_stopping_patience = 3 .*500"),
    ],
)
def test_settings_that_do_not_fit(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_experiment(experiment(**sections))


def test_rmsprop_with_one_norm_is_refused_where_parameters_are_cut_or_offloaded(tmp_path: Path) -> None:
    offload = tmp_path / "offload.json"
    offload.write_text('{"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}')
    groups = tmp_path / "groups.json"
    groups.write_text('{"zero_optimization": {"stage": 3, "sub_group_size": 1000}}')
    rmsprop = {"optimizer": {"name": "normalized_rmsprop"}}
    in_groups = experiment(**rmsprop).model_copy(update={"deepspeed": str(groups)})
    cut = parse_experiment({**rmsprop, "parallel": {"pipe": 2}}, "test")
    for wrong, message in (
        (experiment(**rmsprop).model_copy(update={"deepspeed": str(offload)}), "offloads them"),
        (in_groups, r"groups\.json cuts them by zero_optimization\.sub_group_size = 1000; leave that out"),
        (cut, "pipe = 2, .*set both to 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_experiment(wrong)
    check_experiment(in_groups.model_copy(update={"optimizer": SgdConfig(name="sgd")}))


def test_rmsprop_with_one_norm_is_given_all_parameters_at_once() -> None:
    """DeepSpeed's own size of a group would cut a model of a billion parameters."""
    zero3 = load_engine_config("fp32_zero3")
    rendered = render_deepspeed_config(experiment(optimizer={"name": "normalized_rmsprop"}, deepspeed="fp32_zero3"))
    assert rendered["zero_optimization"] == {**zero3.raw["zero_optimization"], "sub_group_size": sys.maxsize}
    rendered = render_deepspeed_config(experiment(deepspeed="fp32_zero3"))
    assert rendered["zero_optimization"] == zero3.raw["zero_optimization"]


def test_streams_are_for_recurrent_models() -> None:
    with pytest.raises(ConfigError, match=r"data.order = streams: a transformer .*set data.order=random"):
        check_experiment(parse_experiment({"data": {"order": "streams"}}, "test"))


def test_another_family_drops_the_settings_of_the_one_before() -> None:
    streams = ["data.order=streams", "auxiliary.intermediate_layers=false", "auxiliary.num_targets=1"]
    loaded = load_experiment(
        "quickstart", ["model.family=recurrent", "model.hidden_size=7", "parallel.pipe=1", *streams]
    )
    assert loaded.model == RecurrentConfig(hidden_size=7)
    with pytest.raises(ConfigError, match=r"model.width: unknown key; known here: cell, .*hidden_size"):
        load_experiment("quickstart", ["model.family=recurrent", "model.width=7", *streams])
