"""The transformer's parameters: initial values, cut, and decay. Imports no torch.

The paper states no initial values. Ours: normal with standard deviation 0.02 as in GPT-2, projections back into the
hidden state scaled by 1 / sqrt(2 n) for n layers, and classifiers small enough that the first loss is ln v at any
depth. The cut is that of Shoeybi et al. (2019), section 3; only matrices decay.
"""

import math
from typing import Final

from megachar.families.parameters import Rule, Sharding, constant, normal
from megachar.families.transformer.settings import TransformerConfig

STANDARD_DEVIATION: Final = 0.02
_CLASSIFIER_GAIN: Final = 0.2


def _matrix(model: TransformerConfig) -> float:
    return 1.0 / math.sqrt(model.width) if model.local_offsets else STANDARD_DEVIATION


def _projection(model: TransformerConfig) -> float:
    return _matrix(model) / math.sqrt(2 * model.num_layers)


def _classifier(model: TransformerConfig) -> float:
    return _CLASSIFIER_GAIN / math.sqrt(model.width)


TABLE: Final = (
    Rule(r"embedding\.weight", normal(STANDARD_DEVIATION), Sharding(0)),
    Rule(r".*positions\.table", normal(STANDARD_DEVIATION)),
    Rule(r".*norm\.weight", constant(1.0)),
    Rule(r".*norm\.bias", constant(0.0)),
    Rule(r".*attention\.qkv\.weight", normal(_matrix), Sharding(0, parts=3), decays=True),
    Rule(r".*attention\.output\.weight", normal(_projection), Sharding(1), decays=True),
    Rule(r".*feed_forward\.up\.weight", normal(_matrix), Sharding(0), decays=True),
    Rule(r".*feed_forward\.up\.bias", constant(0.0), Sharding(0)),
    Rule(r".*feed_forward\.down\.weight", normal(_projection), Sharding(1), decays=True),
    Rule(r".*feed_forward\.down\.bias", constant(0.0)),
    Rule(r".*classifiers\.\d+\.weight", normal(_classifier), Sharding(0), decays=True),
    Rule(r".*classifiers\.\d+\.bias", constant(0.0), Sharding(0)),
)


def layer_names(model: TransformerConfig) -> list[str]:
    """All layers in training, from below."""
    return ["embedding", *(f"blocks.{index}" for index in range(model.num_layers)), "head"]
