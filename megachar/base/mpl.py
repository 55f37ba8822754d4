"""matplotlib by its usual short name: `mpl.figure` is `matplotlib.figure`, imported when it is first asked for.

Importing matplotlib takes a second, which commands that draw nothing are spared. So import `mpl`, and nothing from it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib import axes, cm, colors, figure, font_manager, lines, patches, rc_context, ticker

__all__ = ("axes", "cm", "colors", "figure", "font_manager", "lines", "patches", "rc_context", "ticker")


def __getattr__(name: str) -> Any:
    """Called for each of these names."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    package = import_module("matplotlib")
    return getattr(package, name) if hasattr(package, name) else import_module(f"matplotlib.{name}")
