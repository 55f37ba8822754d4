"""What the settings of every family of models have in common. Imports no torch."""

import importlib
from typing import Any, ClassVar

from megachar.config.sections.section import Section


class ModelConfig(Section):
    """The settings of a model. Its family is the folder they are defined in, `megachar/families/FAMILY/`."""

    family: str
    num_layers: int
    vocabulary_size: int

    not_shapes: ClassVar[frozenset[str]]
    """Settings that a resumed run may change: the parameters' names and shapes do not follow from them."""
    folds: ClassVar[bool] = False
    """Whether a model in use is computed from all that was trained, so that its files hold all of that."""

    @property
    def window_length(self) -> int:
        """Characters of one row of a batch."""
        raise NotImplementedError

    @property
    def context_limit(self) -> int | None:
        """The most characters that one is predicted from; None where a state is carried on without bound."""
        raise NotImplementedError

    @property
    def drops_out(self) -> bool:
        """Whether training draws masks."""
        raise NotImplementedError

    def carried_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of what a stream of text carries on from one step of training to the next; here nothing."""
        return {}

    def part(self, name: str) -> Any:
        """The module `name` of the family's folder; `docs/design.md` says what each of them has to offer."""
        return importlib.import_module(f"{type(self).__module__.rpartition('.')[0]}.{name}")
