"""The optimizer of a run: torch's fused ones, or apex's where it is importable and `kernels: apex` asks for them."""

import importlib.util
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import nn

from megachar.config.sections.model import ModelConfig
from megachar.families.parameters import Factors, factors_of, rule_of
from megachar.layers.norm import apex_available
from megachar.optimizers.optimizer import OptimizerConfig


def build_optimizer(
    config: OptimizerConfig,
    model: ModelConfig,
    named: Iterable[tuple[str, nn.Parameter]],
    kernels: str = "torch",
    partitioned: bool = False,
) -> torch.optim.Optimizer:
    """The optimizer of a model's named parameters, or of a rank's part of them; its rate is set anew at every step.

    `partitioned`: each data rank updates a part of them (ZeRO).
    """
    groups: dict[tuple[float, Factors], list[nn.Parameter]] = {}
    for name, parameter in named:
        factors = replace(factors_of(model, name), deviation=1.0)
        decay = getattr(config, "weight_decay", 0.0) / factors.rate if rule_of(model, name).decays else 0.0
        groups.setdefault((decay, factors), []).append(parameter)
    return config.build(
        [
            {"params": members, "weight_decay": decay, **_factored(config, factors)}
            for (decay, factors), members in groups.items()
        ],
        apex=uses_apex_optimizer(kernels),
        partitioned=partitioned,
    )


def _factored(config: OptimizerConfig, factors: Factors) -> dict[str, float]:
    """What a group of parameters is given of its own where it follows width and depth."""
    if factors == Factors():
        return {}
    epsilon, rate = getattr(config, "epsilon", 0.0) * factors.epsilon, config.learning_rate * factors.rate
    return {"eps": epsilon, "lr": rate, "rate_factor": factors.rate}


def uses_apex_optimizer(kernels: str) -> bool:
    """Whether apex is asked for and its optimizers can be imported."""
    if kernels != "apex":
        return False
    try:
        return importlib.util.find_spec("apex.optimizers") is not None
    except ModuleNotFoundError:
        return False


def describe_kernels(kernels: str, optimizer_name: str) -> str:
    """One line that says which layer norm and optimizer the run took, and why."""
    norm = "apex" if kernels == "apex" and apex_available() else "torch"
    optimizer = "apex" if uses_apex_optimizer(kernels) else "torch"
    missing = kernels == "apex" and "torch" in {norm, optimizer}
    reason = " (kernels: apex was asked for, but apex is not importable here)" if missing else ""
    return f"layer norm from {norm}, {optimizer_name} from {optimizer}{reason}"
