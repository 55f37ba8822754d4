"""The names under which the state of training is kept: layers, and what optimizers hold. Imports no torch."""

from typing import Final

from megachar.config.recurrent import RecurrentConfig
from megachar.config.schema import ModelConfig

STATE_KEYS: Final = {
    "sgd": ("momentum_buffer",),
    "adamw": ("exp_avg", "exp_avg_sq"),
    "normalized_rmsprop": ("mean_square",),
}
"""What each optimizer keeps of every parameter."""
SCALER_KEYS: Final = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""What there is of the fp16 loss scaling."""


def layer_name(parameter_name: str) -> str:
    """The layer a parameter belongs to: embedding, blocks.17 or head; of recurrent models layers.0 or classifier."""
    parts = parameter_name.split(".")
    return ".".join(parts[:2]) if parts[0] in {"blocks", "layers"} else parts[0]


def layer_names(model: ModelConfig) -> list[str]:
    """All layers of a model in training, from below."""
    if isinstance(model, RecurrentConfig):
        first = ["embedding"] if model.embedding_size else []
        return [*first, *(f"layers.{index}" for index in range(model.num_layers)), "classifier"]
    return ["embedding", *(f"blocks.{index}" for index in range(model.num_layers)), "head"]
