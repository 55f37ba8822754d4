"""Finds what is added by being there: a class in a module of a package."""

import importlib
import pkgutil
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def modules_in(package: str, inner: str = "") -> list[str]:
    """The modules of a package, or in each of its folders the module called `inner`, in the order of their names."""
    root = importlib.import_module(package)
    found = sorted(name for _, name, is_folder in pkgutil.iter_modules(root.__path__) if is_folder == bool(inner))
    return [f"{package}.{name}.{inner}" if inner else f"{package}.{name}" for name in found]


def classes_in(modules: Iterable[str], base: type[T]) -> list[type[T]]:
    """The classes under `base` that these modules define, without itself."""
    return [
        found
        for module in modules
        for found in vars(importlib.import_module(module)).values()
        if isinstance(found, type) and issubclass(found, base) and found is not base and found.__module__ == module
    ]
