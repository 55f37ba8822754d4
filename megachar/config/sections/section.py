"""The base of all sections of settings. Imports no torch."""

from pydantic import BaseModel, ConfigDict

# Far beyond what anybody trains, and small enough that what follows from them can be computed, listed and refused.
MAX_STEPS = 10**12
MAX_SIZE = 2**24
"""Of one dimension of a tensor."""
MAX_LAYERS = 2**14
MAX_WINDOWS = 10**7
MAX_RANKS = 2**14
MAX_SECONDS = 10**8


class Section(BaseModel):
    """Base of all sections: immutable, unknown keys refused, field docstrings become descriptions."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )
