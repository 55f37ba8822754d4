"""Settings that do not fit a transformer. Imports no torch."""

import math

from megachar.base.errors import ConfigError
from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.config.sections.data import DataConfig
from megachar.config.sections.layout import ParallelConfig
from megachar.families.transformer.settings import TransformerConfig


def check(model: TransformerConfig, data: DataConfig, auxiliary: AuxiliaryConfig, parallel: ParallelConfig) -> None:
    """`ConfigError` for the first setting that does not fit the model."""
    if data.order == "streams":
        raise ConfigError(
            "data.order = streams: a transformer carries nothing from one window to the next; set data.order=random or "
            "data.order=epoch"
        )
    if model.width % model.num_heads:
        raise ConfigError(
            f"model.width = {model.width} is not divisible by model.num_heads = {model.num_heads}; "
            f"set model.num_heads={_nearest_divisor(model.width, model.num_heads)}"
        )
    _check_local_offsets(model)
    if model.num_layers < parallel.pipe:
        raise ConfigError(
            f"model.num_layers = {model.num_layers} is less than parallel.pipe = {parallel.pipe}: "
            f"every stage needs a layer; set parallel.pipe={model.num_layers} or fewer"
        )
    if auxiliary.num_targets >= model.context:
        raise ConfigError(
            f"auxiliary.num_targets = {auxiliary.num_targets} is not less than "
            f"model.context = {model.context}; set model.context={auxiliary.num_targets + 1}"
        )
    common = math.gcd(model.num_heads, model.feed_forward_width, model.vocabulary_size)
    for name, value in (("num_heads", model.num_heads), ("feed_forward_width", model.feed_forward_width),
                        ("vocabulary_size", model.vocabulary_size)):  # fmt: skip
        if value % parallel.tensor:
            raise ConfigError(
                f"model.{name} = {value} is not divisible by parallel.tensor = {parallel.tensor}; "
                f"set parallel.tensor={_nearest_divisor(common, parallel.tensor)}"
            )


def _check_local_offsets(model: TransformerConfig) -> None:
    offsets = model.local_offsets
    if not offsets:
        return
    if model.positions != "learned":
        raise ConfigError(
            f"model.local_offsets = {offsets} start from learned tables, and model.positions = {model.positions}; "
            f"set model.positions=learned or model.local_offsets=[]"
        )
    if len(offsets) > model.num_layers or max(len(heads) for heads in offsets) > model.num_heads:
        raise ConfigError(
            f"model.local_offsets = {offsets} name more than model.num_layers = {model.num_layers} layers of "
            f"model.num_heads = {model.num_heads} heads; leave the surplus out"
        )
    wrong = [offset for heads in offsets for offset in heads if not 1 <= offset < model.context]
    if wrong:
        raise ConfigError(
            f"model.local_offsets holds {wrong[0]}, which is not between 1 and model.context - 1 = {model.context - 1}"
        )


def _nearest_divisor(value: int, wanted: int) -> int:
    return min((d for d in range(1, value + 1) if value % d == 0), key=lambda d: (abs(d - wanted), d))
