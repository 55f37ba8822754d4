"""What holds of a model's parameters, by their names in the single-device model: one table for each family.

Imports no torch.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from megachar.config.sections.model import ModelConfig

if TYPE_CHECKING:
    import torch

Start = Callable[["torch.Tensor", Any, "torch.Generator"], None]
"""Fills a whole parameter, on the CPU in fp32, as the model's settings say."""


@dataclass(frozen=True)
class Sharding:
    """How a parameter is cut over the tensor ranks."""

    dim: int
    """Dimension that is cut into equal pieces."""
    parts: int = 1
    """Blocks along `dim` that are each cut on their own: 3 for query, key and value in one matrix."""


@dataclass(frozen=True)
class Scaling:
    """How a parameter follows width and depth under Adam, so that what is best for a small model holds for a large one.

    Width: Yang et al. (2022); depth: Dey et al. (2025), with alpha = 1. r is `ModelConfig.width_ratio`, q is
    `ModelConfig.depth_ratio`.
    """

    deviation: float = 0.0
    """Power of r in the initial deviation."""
    rate: float = 0.0
    """Power of r in the learning rate. Decay, which the rate multiplies, gets its inverse."""
    epsilon: tuple[float, float] = (0.0, 0.0)
    """Powers of r and q in Adam's epsilon: the gradient's sizes."""


@dataclass(frozen=True)
class Rule:
    """What holds of the parameters whose names match a pattern as a whole."""

    pattern: str
    start: Start
    """Its initial values, in a model that is its own base."""
    sharding: Sharding | None = None
    """None: every tensor rank holds all of it."""
    decays: bool = False
    """Whether weight decay applies to it."""
    scaling: Scaling | None = None
    """None: its family has no rules for width and depth."""


def rule_of(model: ModelConfig, name: str) -> Rule:
    """The first row of the family's table that fits a parameter's name; `KeyError` where none does."""
    rules: tuple[Rule, ...] = model.part("parameters").TABLE
    for rule in rules:
        if re.fullmatch(rule.pattern, name):
            return rule
    raise KeyError(f"no rule of family {model.family} names the parameter {name}")


@dataclass(frozen=True)
class Factors:
    """What the settings of a parameter are multiplied by."""

    deviation: float = 1.0
    rate: float = 1.0
    epsilon: float = 1.0


def factors_of(model: ModelConfig, name: str) -> Factors:
    """A parameter's factors for the model's width and depth; all 1 where it is its own base."""
    if model.base is model:
        return Factors()
    scaling, r, q = rule_of(model, name).scaling, model.width_ratio, model.depth_ratio
    if scaling is None:
        raise KeyError(f"no rule says how the parameter {name} of family {model.family} follows width and depth")
    return Factors(r**scaling.deviation, r**scaling.rate, r ** scaling.epsilon[0] * q ** scaling.epsilon[1])


def layer_name(parameter_name: str) -> str:
    """The layer a parameter belongs to: embedding, blocks.17 or head; of recurrent models layers.0 or classifier."""
    parts = parameter_name.split(".")
    return ".".join(parts[:2]) if parts[1:] and parts[1].isdecimal() else parts[0]


def layer_names(model: ModelConfig) -> list[str]:
    """All layers of a model in training, from below."""
    names: list[str] = model.part("parameters").layer_names(model)
    return names


def start_layer(layer: "torch.nn.Module", name: str, model: ModelConfig, generator: "torch.Generator") -> None:
    """Fill the parameters of one layer, called `name` in the single-device model, in their order."""
    for inner, parameter in layer.named_parameters():
        rule_of(model, f"{name}.{inner}").start(parameter.data, model.base, generator)
        parameter.data *= factors_of(model, f"{name}.{inner}").deviation


def constant(value: float) -> Start:
    """The same number everywhere."""

    def start(parameter: "torch.Tensor", model: ModelConfig, generator: "torch.Generator") -> None:
        parameter.fill_(value)

    return start


def normal(deviation: float | Callable[[Any], float]) -> Start:
    """Draws of mean 0; `deviation` may follow from the model's settings."""

    def start(parameter: "torch.Tensor", model: ModelConfig, generator: "torch.Generator") -> None:
        standard = deviation(model) if callable(deviation) else deviation
        parameter.normal_(0.0, standard, generator=generator)

    return start
