from typing import Any

import pytest
from pydantic import ValidationError

from megachar.config.recurrent import RecurrentConfig, check_recurrent
from megachar.errors import ConfigError


def test_every_setting_is_described() -> None:
    assert all(field.description for field in RecurrentConfig.model_fields.values())


@pytest.mark.parametrize(
    "settings",
    [{"cell": "gru"}, {"output_gate": "none"}, {"hidden_size": 0}, {"hidden_dropout": 1.0}, {"family": "transformer"},
     {"vocabulary_size": 1}, {"segment_length": 0}, {"orthogonal_scale": -1.0}, {"width": 5}],
)  # fmt: skip
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        RecurrentConfig.model_validate(settings)


def test_dropout_of_an_embedding_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"embedding_dropout = 0.5 .*embedding_size = 0 .*set .*dropout=0"):
        check_recurrent(RecurrentConfig(embedding_dropout=0.5))
    check_recurrent(RecurrentConfig(embedding_dropout=0.5, embedding_size=400))
    check_recurrent(RecurrentConfig())
