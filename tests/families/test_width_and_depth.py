"""Rates and initial weights of a small model hold for a wide and deep one: factors, the forward pass, refusals."""

import math
from typing import Any

import pytest
import torch

from megachar.base.errors import ConfigError
from megachar.config.checks import check_experiment
from megachar.config.experiment import Experiment
from megachar.config.loading import parse_experiment
from megachar.families.parameters import factors_of
from megachar.families.transformer.initialization import initialize
from megachar.families.transformer.model import Transformer
from megachar.families.transformer.settings import TransformerConfig
from megachar.runs.checkpoints.format import identity
from megachar.selftest.reference import Reference
from megachar.training.optimizer import build_optimizer
from tests.parallel.cases import small_experiment

ADAMW = {"name": "adamw", "learning_rate": 0.01, "epsilon": 0.01, "weight_decay": 0.1}
R, Q = 4.0, 2.0
"""Width and depth of the models below over those of their base."""
TABLE = {
    "embedding.weight": (1, 1, 1 / R, 0),
    "blocks.0.positions.table": (1, 1, 1 / R, 0),
    "blocks.1.positions.table": (1, 1, 1 / (R * Q), 0),
    "blocks.1.attention.qkv.weight": (R**-0.5, 1 / R, 1 / (R * Q), R),
    "blocks.0.feed_forward.up.weight": (R**-0.5, 1 / R, 1 / (R * Q), R),
    "blocks.0.attention.output.weight": (R**-0.5, 1 / R, 1 / (R * Q), R),
    "blocks.1.feed_forward.down.weight": (R**-0.5, 1 / R, 1 / (R * Q), R),
    "blocks.1.feed_forward.up.bias": (None, 1, 1 / (R * Q), 0),
    "blocks.0.feed_forward.down.bias": (None, 1, 1 / (R * Q), 0),
    "blocks.0.attention_norm.weight": (None, 1, 1 / (R * Q), 0),
    "blocks.1.feed_forward_norm.bias": (None, 1, 1 / (R * Q), 0),
    "head.norm.weight": (None, 1, 1 / R, 0),
    "head.classifiers.1.weight": (1 / R, 1 / R, 1, R),
    "blocks.0.auxiliary.classifiers.0.weight": (1 / R, 1 / R, 1 / Q, R),
    "head.classifiers.0.bias": (None, 1, 1, 0),
    "blocks.0.auxiliary.classifiers.1.bias": (None, 1, 1 / Q, 0),
}
"""Name -> factors of deviation (None: its start is a constant), rate, epsilon and decay (0: it does not decay)."""


def scaled(**sections: Any) -> Experiment:
    """Four layers of 64, and what is best for two of 16."""
    model = {"width": 64, "feed_forward_width": 128, "base_width": 16, "base_layers": 2, **sections.pop("model", {})}
    return small_experiment(model=model, auxiliary={"reduction": "mean"}, optimizer=ADAMW, **sections)


def test_factors() -> None:
    """As they reach the optimizer, and as the initial weights have them."""
    experiment = scaled()
    model = initialize(Transformer(experiment.model, experiment.auxiliary), 1)  # type: ignore[arg-type]
    off = {"base_width": None, "base_layers": None}
    small = experiment.model.model_copy(update={"width": 16, "num_layers": 2, "feed_forward_width": 32, **off})
    base = initialize(Transformer(small, experiment.auxiliary), 1)  # type: ignore[arg-type]
    named, of_base = dict(model.named_parameters()), dict(base.named_parameters())
    optimizer = build_optimizer(experiment.optimizer, experiment.model, named.items())
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    for name, (deviation, rate, epsilon, decay) in TABLE.items():
        group = groups[id(named[name])]
        assert group["lr"] == pytest.approx(ADAMW["learning_rate"] * rate), name
        assert group.get("rate_factor", 1.0) == pytest.approx(rate), name
        assert group["eps"] == pytest.approx(ADAMW["epsilon"] * epsilon), name
        assert group["weight_decay"] == pytest.approx(ADAMW["weight_decay"] * decay), name
        if deviation is not None:
            assert float(named[name].detach().std() / of_base[name].detach().std()) == pytest.approx(
                deviation, rel=0.25
            ), name


def test_forward_pass() -> None:
    """What every block adds, but the first table, is divided by q; scores are multiplied by sqrt(base k) / k."""
    config = TransformerConfig(num_layers=4, width=32, num_heads=2, context=8, base_layers=2, base_head_width=4)
    plain = config.model_copy(update={"base_layers": None, "base_head_width": None})
    model, other = (initialize(Transformer(each, None), 3).eval() for each in (config, plain))
    other.load_state_dict(model.state_dict())
    for index, block in enumerate(other.blocks):
        with torch.no_grad():
            block.attention.qkv.weight[:32] *= math.sqrt(4) / math.sqrt(16)  # type: ignore[union-attr, index]
            for part in (block.attention.output.weight, block.feed_forward.down.weight, block.feed_forward.down.bias):  # type: ignore[union-attr]
                part /= 2
            if index:
                block.positions.table /= 2  # type: ignore[union-attr]
    inputs = torch.randint(256, (3, 8))
    torch.testing.assert_close(model.hidden(inputs), other.hidden(inputs), rtol=1e-5, atol=1e-6)


def test_a_model_that_is_its_own_base_is_the_same_model() -> None:
    """Bit by bit, in twenty steps; and off, no setting of a group is written."""
    base = {"base_width": 64, "base_layers": 4, "base_head_width": 32}
    with_rules, without = (scaled(model=own, training={"total_steps": 20}) for own in
                           (base, {"base_width": None, "base_layers": None}))  # fmt: skip
    one, other = Reference(with_rules, 20), Reference(without, 20)
    assert torch.equal(torch.stack(one.nats), torch.stack(other.nats))
    for name, parameter in other.parameters.items():
        assert torch.equal(one.parameters[name], parameter), name
    groups = build_optimizer(
        without.optimizer, without.model, [("embedding.weight", torch.nn.Parameter(torch.ones(1)))]
    )
    assert "rate_factor" not in groups.param_groups[0]


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"as Adam needs it, and optimizer.name = sgd; set optimizer.name=a"):
        check_experiment(scaled().model_copy(update={"optimizer": small_experiment().optimizer}))
    with pytest.raises(ConfigError, match=r"auxiliary.reduction = sum grows with the number of layers.*reduction=mean"):
        check_experiment(scaled().model_copy(update={"auxiliary": small_experiment().auxiliary}))
    with pytest.raises(ConfigError, match=r"the rules for width and depth .* are the transformer's"):
        parse_experiment({"model": {"family": "recurrent", "base_width": 8}}, "test")
    lost = scaled().model
    with pytest.raises(KeyError, match=r"no rule of family transformer names the parameter another.weight"):
        factors_of(lost, "another.weight")


def test_a_run_keeps_its_base() -> None:
    """It says what the model computes."""
    assert identity(scaled()) != identity(scaled(model={"base_layers": 4}))
