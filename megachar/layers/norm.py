"""Layer norm from torch, or from NVIDIA apex where it is importable and asked for."""

import importlib.util

from torch import nn


def apex_available() -> bool:
    """Whether NVIDIA's apex (not the PyPI project of that name) can be imported."""
    try:
        return importlib.util.find_spec("apex.normalization") is not None
    except ModuleNotFoundError:
        return False


def layer_norm(width: int, kernels: str) -> nn.Module:
    """Layer norm with gain and bias over the last `width` features; `kernels` is "torch" or "apex"."""
    if kernels == "apex" and apex_available():
        from apex.normalization import FusedLayerNorm

        return FusedLayerNorm(width)
    return nn.LayerNorm(width)
