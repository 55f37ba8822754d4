"""What a corpus is made from: files, folders, globs and standard input, packed or not, in a fixed order."""

import bz2
import glob
import gzip
import io
import lzma
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Literal, cast

from megachar.errors import DataError

Packing = Literal["plain", "gz", "bz2", "xz", "zst", "zip"]

STANDARD_INPUT = "-"
COPY_BYTES = 1 << 20

_SUFFIXES: dict[str, Packing] = {".gz": "gz", ".bz2": "bz2", ".xz": "xz", ".zst": "zst", ".zip": "zip"}
_MAGIC: tuple[tuple[bytes, Packing], ...] = (
    (b"\x1f\x8b\x08", "gz"), (b"\xfd7zXZ\x00", "xz"), (b"\x28\xb5\x2f\xfd", "zst"), (b"PK\x03\x04", "zip"),
)  # fmt: skip
# "BZh" alone could begin a text; a block or the end of the stream follows the level.
_BZ2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")


@dataclass(frozen=True)
class Input:
    """One text: a file, or one member of a zip archive."""

    path: Path
    packing: Packing = "plain"
    member: str | None = None
    """Name inside a zip archive."""
    name: str = ""
    """File name for the card, without its folder."""

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}, {self.member}"


def find_inputs(names: Sequence[str | Path], spool: Path | None = None) -> list[Input]:
    """The texts that `names` stand for: files, folders (all files below, by name; no hidden ones), globs, "-".

    Names keep their order; inside a folder or glob the order is that of the paths as text. Standard input is copied to
    the file `spool`, so that it can be cut by position and read by many processes. DataError where a name stands for
    nothing or a file is empty; empty files inside a folder or glob are left out.
    """
    inputs: list[Input] = []
    for name in names:
        if str(name) == STANDARD_INPUT:
            if spool is None:
                raise DataError("standard input (-) is given twice: name it once")
            inputs.extend(_texts_of(_spooled(spool), "standard input"))
            spool = None
            continue
        path = Path(name)
        if path.is_dir():
            found = [entry for entry in path.rglob("*") if not _hidden(entry.relative_to(path))]
        elif path.exists():
            inputs.extend(_texts_of(path))
            continue
        else:
            found = [Path(match) for match in glob.glob(str(name), recursive=True)]  # noqa: PTH207 - absolute ones too
        files = [entry for entry in sorted(found, key=lambda entry: entry.as_posix()) if entry.is_file()]
        texts = [text for file in files if file.stat().st_size for text in _texts_of(file)]
        if not texts:
            what = "holds no text" if path.is_dir() else "does not exist"
            raise DataError(f"the input {name} {what}: check its name")
        inputs.extend(texts)
    return inputs


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _spooled(spool: Path) -> Path:
    stream = cast(BinaryIO, sys.stdin.buffer)
    with spool.open("wb") as file:
        while block := stream.read(COPY_BYTES):
            file.write(block)
    if spool.stat().st_size == 0:
        raise DataError("standard input is empty: pipe a text into it")
    return spool


def _texts_of(path: Path, name: str | None = None) -> list[Input]:
    """The texts in one file; DataError where it is missing, empty, or not what its suffix says."""
    if not path.exists():
        raise DataError(f"the input {path} does not exist: check its name")
    if not path.is_file():
        raise DataError(f"the input {path} is not a regular file: give a file, a folder, a glob or -")
    if path.stat().st_size == 0:
        raise DataError(f"the input {path} is empty (0 bytes): give a file with text")
    packing = _packing_of(path)
    name = path.name if name is None else name
    if packing != "zip":
        return [Input(path, packing, None, name)]
    with _unpacking(str(path)), zipfile.ZipFile(path) as archive:
        members = sorted(entry.filename for entry in archive.infolist() if not entry.is_dir() and entry.file_size)
    if not members:
        raise DataError(f"the input {path} holds no text: its files are empty")
    return [Input(path, packing, member, name) for member in members]


def _packing_of(path: Path) -> Packing:
    """How the content is packed. The content decides; a suffix that it contradicts is an error."""
    with path.open("rb") as file:
        head = file.read(10)
    found: Packing = next((packing for magic, packing in _MAGIC if head.startswith(magic)), "plain")
    if head.startswith(b"BZh") and head[4:].startswith(_BZ2_BLOCKS):
        found = "bz2"
    wanted = _SUFFIXES.get(path.suffix.lower())
    if wanted is not None and found == "plain":
        raise DataError(f"the input {path} ends in {path.suffix} but is not packed so: rename it, or fetch it again")
    return found


@contextmanager
def open_text(text: Input, start: int = 0) -> Iterator[IO[bytes]]:
    """Open a text for reading from byte `start` (of the unpacked text; 0 where it is packed).

    Reading raises DataError where an archive is damaged or cut off.
    """
    with open_measured(text, start) as (file, _):
        yield file


@contextmanager
def open_measured(text: Input, start: int = 0) -> Iterator[tuple[IO[bytes], Callable[[], int] | None]]:
    """As `open_text`, with what tells how many bytes of the file were read, where `work_bytes` counts those."""
    with _unpacking(str(text)):
        if text.packing == "plain":
            # Unbuffered: blocks are larger than any buffer, and read-ahead would hide a file that is cut meanwhile.
            with text.path.open("rb", buffering=0) as file:
                file.seek(start)
                yield file, None
            return
        assert start == 0, "a packed text is read from its start"
        if text.member is not None:
            with zipfile.ZipFile(text.path) as archive, archive.open(text.member) as member:
                yield member, None
            return
        with text.path.open("rb") as packed, _unpacked(text.packing, packed) as unpacked:
            yield unpacked, packed.tell


def _unpacked(packing: Packing, packed: IO[bytes]) -> IO[bytes]:
    if packing == "gz":
        return cast(IO[bytes], gzip.open(packed, "rb"))
    if packing == "bz2":
        return bz2.open(packed, "rb")
    if packing == "xz":
        return lzma.open(packed, "rb")
    assert packing == "zst"
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return cast(IO[bytes], zstd.ZstdFile(packed, "rb"))


@contextmanager
def _unpacking(name: str) -> Iterator[None]:
    """Turn what the unpackers raise into one DataError. What the file system raises passes."""
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        if type(error).__name__ != "RuntimeError" or "password" in str(error):  # of an encrypted member
            raise DataError(f"{name} is damaged or cut off ({error}): fetch or copy it again") from None
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        raise DataError(f"{name} is damaged or cut off ({error}): fetch or copy it again") from None
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise DataError(f"{name} is damaged or cut off ({error}): fetch or copy it again") from None
        raise


def work_bytes(text: Input) -> int:
    """Bytes that reading it is counted in: of the text, where its size is known, or of the packed file."""
    known = text.packing == "plain" or text.member is not None
    return unpacked_size(text) if known else text.path.stat().st_size


def unpacked_size(text: Input) -> int:
    """Bytes of the unpacked text. A plain file or a zip member says it; others are unpacked once to know."""
    if text.packing == "plain":
        return text.path.stat().st_size
    if text.member is not None:
        with _unpacking(str(text)), zipfile.ZipFile(text.path) as archive:
            return archive.getinfo(text.member).file_size
    size, buffer = 0, bytearray(COPY_BYTES)
    with open_text(text) as file:
        while count := cast(io.BufferedIOBase, file).readinto(buffer):
            size += count
    return size
