"""The optimizer of a run: torch's fused ones, or apex's where it is importable and `kernels: apex` asks for them."""

import importlib.util
from collections.abc import Iterable

import torch
from torch import nn

from megachar.config.deepspeed import load_engine_config
from megachar.config.experiment import Experiment
from megachar.families.parameters import rule_of
from megachar.layers.norm import apex_available


def build_optimizer(experiment: Experiment, named: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    """The optimizer of the experiment over named parameters; its rate is set anew at every step."""
    config = experiment.optimizer
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in named:
        decay = getattr(config, "weight_decay", 0.0) if rule_of(experiment.model, name).decays else 0.0
        groups.setdefault(decay, []).append(parameter)
    return config.build(
        [{"params": members, "weight_decay": decay} for decay, members in groups.items()],
        apex=uses_apex_optimizer(experiment),
        partitioned=load_engine_config(experiment.deepspeed).zero_stage > 0,
    )


def uses_apex_optimizer(experiment: Experiment) -> bool:
    """Whether apex is asked for and its optimizers can be imported."""
    if experiment.kernels != "apex":
        return False
    try:
        return importlib.util.find_spec("apex.optimizers") is not None
    except ModuleNotFoundError:
        return False


def describe_kernels(experiment: Experiment) -> str:
    """One line that says which layer norm and optimizer the run took, and why."""
    norm = "apex" if experiment.kernels == "apex" and apex_available() else "torch"
    optimizer = "apex" if uses_apex_optimizer(experiment) else "torch"
    missing = experiment.kernels == "apex" and "torch" in {norm, optimizer}
    reason = " (kernels: apex was asked for, but apex is not importable here)" if missing else ""
    return f"layer norm from {norm}, {experiment.optimizer.name} from {optimizer}{reason}"
