"""The base of all sections of settings. Imports no torch."""

from enum import Enum
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

# Far beyond what anybody trains, and small enough that what follows from them can be computed, listed and refused.
MAX_STEPS = 10**12
MAX_SIZE = 2**24
"""Of one dimension of a tensor."""
MAX_LAYERS = 2**14
MAX_WINDOWS = 10**7
MAX_RANKS = 2**14
MAX_SECONDS = 10**8


class Role(Enum):
    """What a setting is for, as a mark on its field: `Annotated[float, Role.TRAINS]`.

    That of a section holds for all in it. Without one, a setting of a model is of its shapes, and any other trains.
    """

    NAMES = "names"
    """Which run it is."""
    COMPUTES = "computes"
    """How and where a run is computed: another value trains the same."""
    TRAINS = "trains"
    """What is learned depends on it."""
    SHAPES = "shapes"
    """The names and shapes of parameters depend on it: a run keeps it to its end."""


def role_of(field: FieldInfo, default: Role) -> Role:
    """The mark of a field."""
    return next((mark for mark in field.metadata if isinstance(mark, Role)), default)


class Section(BaseModel):
    """Base of all sections: immutable, unknown keys refused, field docstrings become descriptions."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    unmarked: ClassVar[Role] = Role.TRAINS
    """The role of settings that have no mark."""

    def shapes(self) -> dict[str, Any]:
        """The settings from which the parameters' names and shapes follow, of JSON's types."""
        fields = type(self).model_fields.items()
        return self.model_dump(
            mode="json", include={name for name, field in fields if role_of(field, self.unmarked) is Role.SHAPES}
        )
