"""The folders that lie beside the package in a checkout and inside it where it is installed."""

from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).resolve().parents[1]


def resource_folder(name: Literal["ds_configs", "launcher"]) -> Path:
    """The folder of the DeepSpeed JSONs, or of the scripts that launchers run."""
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
