import json
import random
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BASE = str(Path(__file__).with_name("base.yaml"))
"""An experiment that no change of the presets changes."""
WriteJson = Callable[[Any], str]


@pytest.fixture
def draw() -> random.Random:
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # pytest shows it when the test fails
    return random.Random(seed)


@pytest.fixture
def ds_json(tmp_path: Path) -> WriteJson:
    """Writes a DeepSpeed JSON and returns its path; a string is written as it stands."""

    def write(content: Any) -> str:
        path = tmp_path / "engine.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return str(path)

    return write
