"""Sections that come in several kinds, such as optimizers: each is a module of its own, found by looking for it.

Imports no torch.
"""

from collections.abc import Callable, Iterable
from functools import reduce
from operator import or_
from typing import Annotated, Any, Generic, TypeVar

from pydantic import Discriminator, GetCoreSchemaHandler, Tag

from megachar.base.discovery import classes_in
from megachar.config.sections.section import Section

Kind = TypeVar("Kind", bound=Section)


class Kinds(Generic[Kind]):
    """The kinds of a section, told apart by one of its keys, which may be left out for the default.

    As a mark on a field, `Annotated[Base, kinds]`, it makes pydantic read the kind that the key names.
    """

    def __init__(self, base: type[Kind], key: str, default: str, modules: Iterable[str]) -> None:
        """The classes under `base` that these modules define; each names its kind as the default of `key`."""
        self.key, self.default = key, default
        self.sections = {str(kind.model_fields[key].default): kind for kind in classes_in(modules, base)}

    def make_default(self) -> Kind:
        """The kind that is taken where none is named, with its own defaults."""
        make: Callable[[], Kind] = self.sections[self.default]
        return make()

    def __get_pydantic_core_schema__(self, base: Any, handler: GetCoreSchemaHandler) -> Any:
        """Pydantic's schema of one of several, told by the key."""
        tagged = (Annotated[section, Tag(name)] for name, section in self.sections.items())
        return handler.generate_schema(Annotated[reduce(or_, tagged), Discriminator(self._tell)])

    def _tell(self, section: Any) -> Any:
        return (
            section.get(self.key, self.default)
            if isinstance(section, dict)
            else getattr(section, self.key, self.default)
        )
