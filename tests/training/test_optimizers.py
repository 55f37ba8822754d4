"""What is decayed, which settings reach the optimizer, and which kernels a run says it took."""

import pytest
import torch

from megachar.config.loading import load_experiment
from megachar.families.parameters import rule_of
from megachar.families.transformer.model import Transformer
from megachar.training.optimizer import build_optimizer, describe_kernels
from tests.config.conftest import BASE

SMALL = ["model.num_layers=2", "model.width=8", "model.feed_forward_width=8", "model.context=8", "parallel.pipe=1"]


def test_only_matrices_are_decayed() -> None:
    """Matrices multiply hidden states: not biases, norms, the embedding or position tables."""
    experiment = load_experiment(BASE, SMALL)
    model = Transformer(experiment.model, experiment.auxiliary)
    decayed = {name for name, _ in model.named_parameters() if rule_of(experiment.model, name).decays}
    matrices = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert decayed == matrices


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_every_parameter_is_in_one_group(name: str) -> None:
    overrides = [f"optimizer.name={name}", "optimizer.weight_decay=0.25", "optimizer.learning_rate=0.125"]
    experiment = load_experiment(BASE, [*SMALL, *overrides])
    model = Transformer(experiment.model, experiment.auxiliary)
    optimizer = build_optimizer(experiment.optimizer, experiment.model, model.named_parameters())
    found = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(found)
    assert found.keys() == {id(p) for p in model.parameters()}
    for key, parameter in model.named_parameters():
        group = found[id(parameter)]
        assert group["weight_decay"] == (0.25 if rule_of(experiment.model, key).decays else 0.0), key
        assert group["lr"] == 0.125


def test_settings_reach_the_optimizer() -> None:
    named = [("embedding.weight", torch.nn.Parameter(torch.ones(2)))]
    adamw = ["optimizer.beta1=0.7", "optimizer.beta2=0.8", "optimizer.epsilon=0.5"]
    experiment = load_experiment(BASE, [*SMALL, *adamw])
    built = build_optimizer(experiment.optimizer, experiment.model, named)
    assert isinstance(built, torch.optim.AdamW)
    assert (built.defaults["betas"], built.defaults["eps"]) == ((0.7, 0.8), 0.5)
    sgd = ["optimizer.name=sgd", "optimizer.momentum=0.6"]
    experiment = load_experiment(BASE, [*SMALL, *sgd])
    built = build_optimizer(experiment.optimizer, experiment.model, named)
    assert isinstance(built, torch.optim.SGD)
    assert built.defaults["momentum"] == 0.6
    assert not built.defaults["nesterov"]


def test_the_run_says_which_kernels_it_took() -> None:
    assert describe_kernels("torch", "adamw") == "layer norm from torch, adamw from torch"
    wanted = describe_kernels("apex", "sgd")
    assert "sgd from " in wanted
    assert ("not importable" in wanted) == ("torch" in wanted)
