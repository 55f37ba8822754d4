"""Python's search for garbage, which imports and set-up set off a hundred times and which never finds any there."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Make objects that are to stay: no garbage is looked for meanwhile, nor among them at any later time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
