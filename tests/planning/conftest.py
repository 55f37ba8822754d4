"""What the tests of this folder have in common."""

from typing import Any

import pytest

from megachar.config.experiment import Experiment
from megachar.config.loading import load_experiment
from tests.config.conftest import draw

__all__ = ["draw"]


@pytest.fixture(autouse=True)
def _no_file_of_devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """The user's own file of devices is that of nobody."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def t64() -> Experiment:
    """With two pipeline stages."""
    return load_experiment("t64-modern")
