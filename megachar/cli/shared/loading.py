"""What is shown while torch is imported, which takes seconds."""

from contextlib import AbstractContextManager

from rich.console import Console

from megachar.base.bars import waiting


def loading(what: str = "torch and the model") -> AbstractContextManager[None]:
    """Around the block that does it: a line that is gone afterwards, on a terminal alone."""
    return waiting(f"loading {what}", Console(stderr=True))
