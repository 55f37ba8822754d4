"""What every part of megachar needs of the file system."""

import errno
import json
import math
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

MENDS = {
    errno.ENOSPC: "free space, or write elsewhere",
    errno.EDQUOT: "free space of your quota, or write elsewhere",
    errno.EACCES: "change its permissions, or take another path",
    errno.EPERM: "change its permissions, or take another path",
    errno.EROFS: "write elsewhere",
    errno.ENAMETOOLONG: "shorten it",
    errno.EMFILE: "raise the limit, `ulimit -n`",
    errno.ENFILE: "end other programs",
    errno.EIO: "look at the disk or its mount",
    errno.ESTALE: "look at the mount",
    errno.ENOENT: "look at the path",
    errno.ENOTDIR: "look at the path",
    errno.EISDIR: "name a file in it",
}


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


def expanded(path: Path) -> Path:
    """A path with the `~` that it begins with written out; `OSError` where no such user is known here."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(errno.ENOENT, str(error).rstrip("."), str(path)) from error


def json_text(value: Any, indent: int | None = None) -> str:
    """`value` as JSON for a file. A number that is not finite, for which JSON has no word, is null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def open_regular(path: Path, links: bool = True) -> BinaryIO:
    """Open a file for reading, never a pipe or a device, at which a read may wait for ever.

    Args:
        path: the file.
        links: whether the name may be that of a link to it.

    Raises:
        OSError: it cannot be opened, or is something else.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if links else os.O_NOFOLLOW))
    except OSError as error:
        if error.errno == errno.ELOOP and not links:
            raise OSError(error.errno, "it is a link", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, most_bytes: int, links: bool = True) -> bytes:
    """The content of a file of at most `most_bytes`. Raises as `open_regular`, also where there is more."""
    with open_regular(path, links) as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, f"it is longer than {most_bytes:,} bytes", str(path))
    return data


def shown(name: str | Path) -> str:
    r"""A file's name for people and for JSON: what no terminal shows is escaped, bytes that are no UTF-8 as \xNN."""
    return "".join(character if character.isprintable() else _escaped(character) for character in str(name))


def is_utf8(name: str | Path) -> bool:
    """Whether a file's name is UTF-8, as libraries that are not Python's expect."""
    return not any(0xDC80 <= ord(character) <= 0xDCFF for character in str(name))


def describe(error: OSError) -> str:
    """Which files went wrong, why, and the mend, in one line."""
    names = " -> ".join(shown(os.fsdecode(name) if isinstance(name, bytes) else str(name))
                        for name in (error.filename, error.filename2) if name is not None)  # fmt: skip
    return f"{names or 'reading or writing'}: {reason(error)}"


def reason(error: OSError) -> str:
    """Why something went wrong, and the mend, without the file's name."""
    said, mend = error.strerror or str(error) or type(error).__name__, MENDS.get(error.errno or 0, "")
    return f"{said}; {mend}" if mend else said


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
