"""What every part of megachar needs of the file system."""

import os
from pathlib import Path


def fsync_path(path: Path) -> None:
    """Wait until the file or folder `path` is on the disk; a folder stands for the names in it, not what is in them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def shown(name: str | Path) -> str:
    r"""A file's name for people and for JSON: what no terminal shows is escaped, bytes that are no UTF-8 as \xNN."""
    return "".join(character if character.isprintable() else _escaped(character) for character in str(name))


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is no UTF-8, as Python keeps it
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
