"""Sections that come in several kinds, such as optimizers: each is a module of its own, found by looking for it.

Imports no torch.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from megachar.config.sections.section import Section

Kind = TypeVar("Kind", bound=Section)


class Kinds(Generic[Kind]):
    """The kinds of a section, told apart by one of its keys, which may be left out for the default.

    As a mark on a field, `Annotated[Base, kinds]`, it makes pydantic read the kind that the key names.
    """

    def __init__(self, base: type[Kind], key: str, default: str, modules: Iterable[str]) -> None:
        """The classes under `base` that these modules define; each names its kind as the default of `key`."""
        self.key, self.default = key, default
        self.sections: dict[str, type[Kind]] = {}
        for module in modules:
            for found in vars(importlib.import_module(module)).values():
                is_kind = isinstance(found, type) and issubclass(found, base) and found is not base
                if is_kind and found.__module__ == module:
                    self.sections[str(found.model_fields[key].default)] = found

    def make_default(self) -> Kind:
        """The kind that is taken where none is named, with its own defaults."""
        make: Callable[[], Kind] = self.sections[self.default]
        return make()

    def __get_pydantic_core_schema__(self, base: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """One of several, by the key."""
        choices = {name: handler.generate_schema(section) for name, section in self.sections.items()}
        return core_schema.tagged_union_schema(choices, self._tell)

    def _tell(self, section: Any) -> Any:
        return (
            section.get(self.key, self.default)
            if isinstance(section, dict)
            else getattr(section, self.key, self.default)
        )


def modules_in(package: str, inner: str = "") -> list[str]:
    """The modules of a package, or in each of its folders the module called `inner`, by name."""
    root = importlib.import_module(package)
    found = sorted(name for _, name, is_folder in pkgutil.iter_modules(root.__path__) if is_folder == bool(inner))
    return [f"{package}.{name}.{inner}" if inner else f"{package}.{name}" for name in found]
