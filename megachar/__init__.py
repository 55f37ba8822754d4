"""megachar: very deep byte- and character-level language models, trained with DeepSpeed.

`megachar.load` and `megachar.read_runs` are its face for Python (`megachar.api`); all else is for its own commands.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["load", "read_runs"]


def __getattr__(name: str) -> Any:
    """The face for Python, which loads torch: so not before it is asked for."""
    if name in __all__:
        return getattr(importlib.import_module("megachar.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
