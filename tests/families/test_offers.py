"""Every family of models offers what is asked of one, under the names that the design gives."""

import inspect
import re
from pathlib import Path

import pytest

from megachar.config.experiment import FAMILIES
from megachar.config.loading import load_experiment
from megachar.families.model import build_model
from megachar.families.parameters import layer_name, layer_names, rule_of
from tests.config.conftest import BASE

OFFERS = {
    "checks": {"check": "model, data, auxiliary, parallel"},
    "parameters": {"layer_names": "model"},
    "counting": {
        "count_parameters": "model, auxiliary",
        "forward_flops_per_character": "model, num_classifiers",
        "describe_layer": "model",
        "describe_architecture": "model",
        "describe_size": "model",
    },
    "costs": {"model_costs": "model, auxiliary, share"},
    "model": {"build": "config, auxiliary, kernels"},
    "stage": {"build_stage": "experiment, mesh"},
    "corpus": {"open_readers": "experiment, blend"},
    "source": {"build_source": "experiment, blend, mesh"},
    "scorer": {"make_scorer": "model, device, precision", "reading": "model, device, segment_length, streams"},
    "generation": {"text_state": "model, slide"},
}
"""Module -> function -> its arguments."""
SMALL = {
    "transformer": ["model.num_layers=2", "model.width=8", "model.feed_forward_width=8", "model.context=8"],
    "recurrent": [
        "model.family=recurrent", "model.hidden_size=8", "model.embedding_size=4", "model.weight_norm=true",
        "auxiliary.intermediate_layers=false", "auxiliary.num_targets=1", "data.order=streams", "parallel.pipe=1",
    ],
}  # fmt: skip


@pytest.mark.parametrize("family", sorted(FAMILIES.sections))
@pytest.mark.parametrize("part", sorted(OFFERS))
def test_every_family_has_every_part(family: str, part: str) -> None:
    module = FAMILIES.sections[family]().part(part)
    for name, arguments in OFFERS[part].items():
        assert ", ".join(inspect.signature(getattr(module, name)).parameters) == arguments, name


def test_the_design_names_all_parts() -> None:
    design = (Path(__file__).parents[2] / "docs" / "design.md").read_text(encoding="utf-8")
    table = design[design.index("### A family of models") : design.index("### To add")]
    assert set(re.findall(r"^\| `(\w+)\.py` \|", table, flags=re.M)) == {*OFFERS, "settings"}
    for functions in OFFERS.values():
        assert not [name for name in functions if name not in table]


@pytest.mark.parametrize("family", sorted(FAMILIES.sections))
def test_every_parameter_has_a_rule(family: str) -> None:
    experiment = load_experiment(BASE, SMALL[family])
    model = build_model(experiment.model, experiment.auxiliary)
    names = [name for name, _ in model.named_parameters()]
    assert {layer_name(name) for name in names} == set(layer_names(experiment.model))
    for name in names:
        rule_of(experiment.model, name)
    with pytest.raises(KeyError, match=r"no rule of family \w+ names the parameter unheard\.of"):
        rule_of(experiment.model, "unheard.of")
