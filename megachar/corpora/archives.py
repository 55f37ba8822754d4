"""Zip archives, read as the folder that was packed would be."""

import io
import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar, cast

from megachar.base.errors import DataError
from megachar.base.files import shown
from megachar.corpora.folders import left_out
from megachar.corpora.packings import HEAD_BYTES, Packing, packing_of

Result = TypeVar("Result")

_END = struct.Struct("<10xH8xH")
"""The record at the end, in parts: the number of entries (modulo 2^16) and the length of a comment."""
_MOST_COMMENT_BYTES = (1 << 16) - 1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_REFUSALS = (
    zipfile.BadZipFile, NotImplementedError, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError,
    OverflowError, OSError,
)  # fmt: skip


def members_of(path: Path) -> list[tuple[str, Packing]]:
    """Names of the files with text in a zip archive, in order, and how each is packed once more.

    DataError where the archive is damaged, or holds what cannot be read: links, archives, what is encrypted.
    """
    members: dict[str, Packing] = {}
    archive = _opened(path)
    for info in sorted(archive.infolist(), key=lambda info: info.filename):
        empty = info.file_size == 0 and info.CRC == 0
        if info.is_dir() or empty or any(map(left_out, PurePosixPath(info.filename).parts)):
            continue
        where = f"{shown(path)}, {shown(info.filename)}"
        if info.filename in members:
            raise DataError(f"{where} is there twice: unpack the archive and give the folder")
        _check_readable(info, where)
        with _Member(archive, info, where) as file:
            packing = packing_of(info.filename, file.read(HEAD_BYTES), where)
        if packing == "zip":
            raise DataError(f"{where} is an archive in an archive: unpack the outer and give the folder")
        members[info.filename] = packing
    return list(members.items())


def member_size(path: Path, member: str) -> int:
    """Bytes of a member as it comes out of the archive."""
    return _opened(path).getinfo(member).file_size


@contextmanager
def open_member(path: Path, member: str) -> Iterator[IO[bytes]]:
    """Open a member for reading, which raises DataError where it is damaged."""
    archive = _opened(path)
    with _Member(archive, archive.getinfo(member), f"{shown(path)}, {shown(member)}") as file:
        yield cast(IO[bytes], file)


def _opened(path: Path) -> zipfile.ZipFile:
    """The archive, for any number of its members; DataError where it is damaged."""
    status = path.stat()
    return _whole(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1)
def _whole(path: Path, size: int, changed: int) -> zipfile.ZipFile:
    """The archive as it was when it was of that size and changed at that time.

    Kept for its next member: to read the directory for each would take the square of their number.
    """
    archive = _read(lambda: zipfile.ZipFile(path), shown(path))
    _check_whole(path, archive)
    return archive


def _check_whole(path: Path, archive: zipfile.ZipFile) -> None:
    """DataError where members are missing, or something lies before the first or after the end, as another archive."""
    name = shown(path)
    first = min((info.header_offset for info in archive.infolist()), default=0)
    if first:
        raise _damage(name, f"{first:,} bytes lie before its first file")
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - _END.size - _MOST_COMMENT_BYTES))
        tail = file.read()
    num_entries, comment_bytes = _END.unpack_from(tail, place := tail.rfind(b"PK\x05\x06"))
    found = len(archive.infolist())
    if num_entries not in (found, 0xFFFF):  # that stands for a number that is written elsewhere
        raise _damage(name, f"it lists {found:,} entries where it should {num_entries:,}")
    if tail[place + _END.size + comment_bytes :].strip(b"\0"):
        raise _damage(name, "something follows its end")


def _check_readable(info: zipfile.ZipInfo, where: str) -> None:
    if stat.S_ISLNK(info.external_attr >> 16):
        raise DataError(f"{where} is a link: pack what it leads to (zip without -y)")
    if info.flag_bits & 1:
        raise DataError(f"{where} is encrypted: unpack the archive with its password and give the folder")
    if info.compress_type not in _METHODS:
        raise DataError(
            f"{where} is packed by method {info.compress_type}, which is not read here: unpack the archive "
            "and give the folder"
        )


class _Member(io.RawIOBase):
    """A member of an archive as a file, whose errors are DataError."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> None:
        self._where = where
        self._file = _read(lambda: archive.open(info), where)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`, or less of it at the end alone; the number of bytes."""
        data = _read(lambda: self._file.read(len(buffer)), self._where)
        buffer[: len(data)] = data
        return len(data)

    def tell(self) -> int:
        """Position in the unpacked member."""
        return self._file.tell()

    def close(self) -> None:
        """Close it; the archive stays open."""
        self._file.close()
        super().close()


def _read(act: Callable[[], Result], name: str) -> Result:
    """What `act` gives; what it raises because of damage, as DataError. What the file system raises passes."""
    try:
        return act()
    except _REFUSALS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _damage(name, str(error) or "its end is missing") from None


def _damage(name: str, reason: str) -> DataError:
    return DataError(f"{name} is damaged or cut off ({reason}): fetch or copy it again")
