"""What every part of megachar needs of the file system."""

import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A file beside `path`, for the block to write, that takes its place when the block ends well.

    What has the name `path` is always whole, also after a power cut, and also where several hosts write the same; if
    anything fails, it is as it was, and nothing is left beside it.

    Raises:
        OSError: the file cannot be written, or the block wrote none.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield part
        fsync_path(part)
        part.replace(path)
        fsync_path(path.parent)
    finally:
        part.unlink(missing_ok=True)


def fsync_path(path: Path) -> None:
    """Wait until the file or folder `path` is on the disk; a folder stands for the names in it, not what is in them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_text(value: Any, indent: int | None = None) -> str:
    """`value` as JSON for a file. A number that is not finite, for which JSON has no word, is null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def shown(name: str | Path) -> str:
    r"""A file's name for people and for JSON: what no terminal shows is escaped, bytes that are no UTF-8 as \xNN."""
    return "".join(character if character.isprintable() else _escaped(character) for character in str(name))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is no UTF-8, as Python keeps it
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
