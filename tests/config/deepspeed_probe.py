"""Asks the installed DeepSpeed about configurations given as JSON on stdin. Run by test_deepspeed_json.py."""

import json
import os
import sys
from types import SimpleNamespace
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"
import deepspeed.runtime.config as ds_config
from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from pydantic import BaseModel

READ: set[str] = set()


class Recording(dict[str, Any]):
    """Remembers which keys DeepSpeed looks up, for it ignores those it does not know without a word."""

    def get(self, key: str, default: Any = None) -> Any:
        READ.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        READ.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        READ.add(str(key))
        return super().__contains__(key)

    def keys(self) -> Any:
        return self


def error_of(config: dict[str, Any]) -> str | None:
    mpu = SimpleNamespace(get_data_parallel_world_size=lambda: 4)
    try:
        ds_config.DeepSpeedConfig(config, mpu=mpu)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def fields_of(model: type[BaseModel]) -> list[str]:
    return sorted(field.alias or name for name, field in model.model_fields.items())


def main() -> None:
    ds_config.dist = SimpleNamespace(get_rank=lambda: 0, get_world_size=lambda: 4)
    question = json.load(sys.stdin)
    errors = {name: error_of(config) for name, config in question["configs"].items()}
    plain = question["configs"]["fp32"]
    print(json.dumps({
        "errors": errors,
        "removed": [key for key in question["keys"] if "removed" in str(error_of({**plain, key: {}}))],
        "unread": error_of(Recording(plain)),
        "read": sorted(READ),
        "zero": fields_of(DeepSpeedZeroConfig),
        "fp16": fields_of(DeepSpeedFP16Config),
        "bf16": fields_of(DeepSpeedBF16Config),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
