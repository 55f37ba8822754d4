"""The transformer's parameters: initial values, cut, decay, and how they follow width and depth. Imports no torch.

The paper states no initial values. Ours: normal with standard deviation 0.02 as in GPT-2, projections back into the
hidden state scaled by 1 / sqrt(2 n) for n layers, and classifiers small enough that the first loss is ln v at any
depth. The cut is that of Shoeybi et al. (2019), section 3; only matrices decay.
"""

import math
from typing import Final

from megachar.families.parameters import Rule, Scaling, Sharding, constant, normal
from megachar.families.transformer.settings import TransformerConfig

STANDARD_DEVIATION: Final = 0.02
_CLASSIFIER_GAIN: Final = 0.2


def _matrix(model: TransformerConfig) -> float:
    return 1.0 / math.sqrt(model.width) if model.local_offsets else STANDARD_DEVIATION


def _projection(model: TransformerConfig) -> float:
    return _matrix(model) / math.sqrt(2 * model.num_layers)


def _classifier(model: TransformerConfig) -> float:
    return _CLASSIFIER_GAIN / math.sqrt(model.width)


# How parameters follow width and depth (`Scaling`). Every block adds 1/q of what it computes, its table of positions
# included: the tables are biases of the stream, and there are as many as blocks. Intermediate classifiers are output
# layers at any depth.
_STREAM = Scaling(epsilon=(-1, 0))
_IN_BLOCK = Scaling(epsilon=(-1, -1))
_MATRIX = Scaling(deviation=-0.5, rate=-1, epsilon=(-1, -1))
_OUTPUT, _OUTPUT_BIAS = Scaling(deviation=-1, rate=-1), Scaling()
_INTERMEDIATE, _INTERMEDIATE_BIAS = Scaling(deviation=-1, rate=-1, epsilon=(0, -1)), Scaling(epsilon=(0, -1))

TABLE: Final = (
    Rule(r"embedding\.weight", normal(STANDARD_DEVIATION), Sharding(0), scaling=_STREAM),
    Rule(r"blocks\.0\.positions\.table", normal(STANDARD_DEVIATION), scaling=_STREAM),
    Rule(r"blocks\.\d+\.positions\.table", normal(STANDARD_DEVIATION), scaling=_IN_BLOCK),
    Rule(r"head\.norm\.weight", constant(1.0), scaling=_STREAM),
    Rule(r"head\.norm\.bias", constant(0.0), scaling=_STREAM),
    Rule(r"blocks\.\d+\.\w+_norm\.weight", constant(1.0), scaling=_IN_BLOCK),
    Rule(r"blocks\.\d+\.\w+_norm\.bias", constant(0.0), scaling=_IN_BLOCK),
    Rule(r".*attention\.qkv\.weight", normal(_matrix), Sharding(0, parts=3), True, _MATRIX),
    Rule(r".*attention\.output\.weight", normal(_projection), Sharding(1), True, _MATRIX),
    Rule(r".*feed_forward\.up\.weight", normal(_matrix), Sharding(0), True, _MATRIX),
    Rule(r".*feed_forward\.up\.bias", constant(0.0), Sharding(0), scaling=_IN_BLOCK),
    Rule(r".*feed_forward\.down\.weight", normal(_projection), Sharding(1), True, _MATRIX),
    Rule(r".*feed_forward\.down\.bias", constant(0.0), scaling=_IN_BLOCK),
    Rule(r"head\.classifiers\.\d+\.weight", normal(_classifier), Sharding(0), True, _OUTPUT),
    Rule(r"head\.classifiers\.\d+\.bias", constant(0.0), Sharding(0), scaling=_OUTPUT_BIAS),
    Rule(r".*auxiliary\.classifiers\.\d+\.weight", normal(_classifier), Sharding(0), True, _INTERMEDIATE),
    Rule(r".*auxiliary\.classifiers\.\d+\.bias", constant(0.0), Sharding(0), scaling=_INTERMEDIATE_BIAS),
)


def layer_names(model: TransformerConfig) -> list[str]:
    """All layers in training, from below."""
    return ["embedding", *(f"blocks.{index}" for index in range(model.num_layers)), "head"]
