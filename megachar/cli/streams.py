"""Standard input, output and errors, whatever they may be: closed, full, or a terminal that shows no UTF-8."""

import codecs
import os
import sys
from contextlib import suppress

ALIKE = {"\u2026": "~", "\u2013": "-", "\u2014": "-", "\u00d7": "x", "\u00b7": ".", "\u2022": "*", "\u2212": "-"}
"""What stands where a terminal cannot show a character of ours, as wide as it."""


def open_streams() -> None:
    """Make all three usable: what is closed is the null device, what cannot be shown is shown as something alike.

    Without this, the next file that is opened would take the place of a closed one, and get what is printed.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which is given the lowest number that is free: this one
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))
    codecs.register_error("megachar-alike", _alike)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # not in tests, which put other streams there
            reconfigure(errors="megachar-alike")


def flush_streams() -> None:
    """Have all that was printed written; `OSError` where it cannot be."""
    try:
        sys.stdout.flush()
    except OSError:
        # Or Python tries again as it ends, and says so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise


def say_error(message: str) -> None:
    """Print an error, in red on a terminal."""
    from rich.console import Console

    with suppress(OSError):  # nobody is there to be told
        Console(stderr=True, highlight=False, soft_wrap=True).print(message, style="red", markup=False)
        sys.stderr.flush()


def _alike(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    escaped = (ALIKE.get(character) or character.encode("ascii", "backslashreplace").decode() for character in wrong)
    return "".join(escaped), error.end
