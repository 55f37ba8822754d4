"""Optimizers: torch's fused ones, apex's where it is importable and `kernels: apex` asks for them, and our RMSprop."""

import importlib.util
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

from megachar.config.deepspeed import load_engine_config
from megachar.config.schema import Experiment, NormalizedRMSpropConfig, SgdConfig
from megachar.layers.norm import apex_available
from megachar.training.normalized_rmsprop import NormalizedRMSprop


def build_optimizer(experiment: Experiment, named: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    """The optimizer of the experiment over named parameters; its rate is set anew at every step.

    Only matrices are decayed: biases, norms, the embedding and position tables are not.
    """
    config = experiment.optimizer
    if isinstance(config, NormalizedRMSpropConfig):
        # One group: DeepSpeed steps group after group, and the norm is over all parameters.
        partitioned = load_engine_config(experiment.deepspeed).zero_stage > 0
        parameters = [parameter for _, parameter in named]
        add = dist.all_reduce if partitioned else None
        return NormalizedRMSprop(parameters, config.learning_rate, config.decay, config.epsilon, add)
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in named:
        decay = config.weight_decay if is_decayed(name) else 0.0
        groups.setdefault(decay, []).append(parameter)
    grouped = [{"params": members, "weight_decay": decay} for decay, members in groups.items()]
    apex = uses_apex_optimizer(experiment)
    if isinstance(config, SgdConfig):
        if apex:
            from apex.optimizers import FusedSGD

            return FusedSGD(grouped, lr=config.learning_rate, momentum=config.momentum)
        return torch.optim.SGD(grouped, lr=config.learning_rate, momentum=config.momentum, fused=True)
    betas = (config.beta1, config.beta2)
    if apex:
        from apex.optimizers import FusedAdam

        return FusedAdam(grouped, lr=config.learning_rate, betas=betas, eps=config.epsilon, adam_w_mode=True)
    return torch.optim.AdamW(grouped, lr=config.learning_rate, betas=betas, eps=config.epsilon, fused=True)


def is_decayed(name: str) -> bool:
    """Whether weight decay applies to a parameter, by its name in the single-device model."""
    return name.endswith(".weight") and "norm" not in name and not name.startswith("embedding")


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
