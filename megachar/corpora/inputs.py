"""What a corpus is made from: files, folders, globs and standard input, packed or not, in a fixed order."""

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from megachar.base.errors import DataError
from megachar.base.files import shown
from megachar.corpora.archives import member_size, members_of, open_member
from megachar.corpora.folders import Identity, files_of, identity, matches
from megachar.corpora.packings import HEAD_BYTES, Packing, packing_of
from megachar.corpora.unpacking import UnpackedStreams

STANDARD_INPUT = "-"
COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Input:
    """One text: a file, or one member of a zip archive, packed or not."""

    path: Path
    packing: Packing = "plain"
    """Of the file, or of the member as it comes out of its archive; never zip."""
    member: str | None = None
    """Name inside a zip archive."""
    name: str = ""
    """What the file is called, where that is not its path."""

    def __str__(self) -> str:
        file = self.name or shown(self.path)
        return file if self.member is None else f"{file}, {shown(self.member)}"

    @property
    def file_name(self) -> str:
        """What the file is called without its folder, for the card."""
        return self.name or shown(self.path.name)

    @property
    def is_plain(self) -> bool:
        """Whether the bytes of the file are those of the text, so that it may be read from anywhere."""
        return self.packing == "plain" and self.member is None


def find_inputs(names: Sequence[str | Path], spool: Path | None = None) -> list[Input]:
    """The texts that `names` stand for: files, folders (all files below), globs (what they match, as if named), "-".

    Names keep their order; inside a folder or glob the order is that of the paths as text. Hidden files and folders,
    `__MACOSX` and empty files are left out, in folders as in archives. Links are followed, and the same file is taken
    once, by whichever name comes first. Standard input is copied to the file `spool`, so that it can be cut by position
    and read by many processes. DataError where a name stands for nothing, or for a file that cannot be read.
    """
    inputs: list[Input] = []
    taken: set[Identity] = set()
    for name in names:
        if str(name) == STANDARD_INPUT:
            if spool is None:
                raise DataError("standard input (-) is given twice: name it once")
            inputs.extend(_texts_of(_spooled(spool), "standard input"))
            spool = None
            continue
        files = _files_named(str(name))
        for file in files:
            if (found := identity(file)) not in taken:
                taken.add(found)
                inputs.extend(_texts_of(file))
    return inputs


def _files_named(name: str) -> list[Path]:
    """The files that a name stands for, none of them empty; DataError where there is none."""
    path, entered = Path(name), set[Identity]()
    if path.exists() and not path.is_dir():
        _check_regular(path)
        if path.stat().st_size == 0:
            raise DataError(f"the input {shown(name)} is empty (0 bytes): give a file with text")
        return [path]
    found = {file for match in ([path] if path.is_dir() else matches(name)) for file in files_of(match, entered)}
    for file in found:
        _check_regular(file)
    files = [file for file in sorted(found, key=lambda file: file.as_posix()) if file.stat().st_size]
    if not files:
        what = "does not exist: check its name"
        if found or entered or path.is_dir():
            what = "holds no text (hidden and empty files are left out): give what does"
        raise DataError(f"the input {shown(name)} {what}")
    return files


def _check_regular(path: Path) -> None:
    if not path.exists():
        raise DataError(f"the input {shown(path)} is a link that leads nowhere: mend it, or remove it")
    if not path.is_file():
        raise DataError(f"the input {shown(path)} is not a regular file: give a file, a folder, a glob or -")


def _spooled(spool: Path) -> Path:
    stream = cast(BinaryIO, sys.stdin.buffer)
    with spool.open("wb") as file:
        while block := stream.read(COPY_BYTES):
            file.write(block)
    if spool.stat().st_size == 0:
        raise DataError("standard input is empty: pipe a text into it")
    return spool


def _texts_of(path: Path, name: str = "") -> list[Input]:
    """The texts in one file, which is called `name` where that is not its path."""
    with path.open("rb") as file:
        packing = packing_of(path.name, file.read(HEAD_BYTES), name or shown(path))
    if packing != "zip":
        return [Input(path, packing, None, name)]
    texts = [Input(path, packed, member, name) for member, packed in members_of(path)]
    if not texts:
        raise DataError(f"{name or shown(path)} holds no text (hidden and empty files are left out)")
    return texts


@contextmanager
def open_text(text: Input) -> Iterator[IO[bytes]]:
    """Open a text for reading, which raises DataError where it is damaged or cut off."""
    with open_measured(text, 0) as (file, _):
        yield file


@contextmanager
def open_measured(text: Input, start: int) -> Iterator[tuple[IO[bytes], Callable[[], int] | None]]:
    """As `open_text`, from byte `start` (0 where it is packed), with what tells how many of `work_bytes` were read,
    where those are not bytes of the text.
    """
    with ExitStack() as stack:
        if text.member is not None:
            file = stack.enter_context(open_member(text.path, text.member))
        else:
            # Unbuffered: blocks are larger than any buffer, and read-ahead would hide a file that is cut meanwhile.
            file = stack.enter_context(text.path.open("rb", buffering=0))
        if text.is_plain:
            file.seek(start)
        assert text.is_plain or start == 0, "a packed text is read from its start"
        if text.packing == "plain":
            yield file, None
            return
        unpacked = io.BufferedReader(UnpackedStreams(file, text.packing, str(text)), COPY_BYTES)
        stack.enter_context(unpacked)
        _check_unpacked(unpacked.peek(HEAD_BYTES)[:HEAD_BYTES], str(text))
        yield unpacked, file.tell


def _check_unpacked(head: bytes, where: str) -> None:
    """DataError where what was unpacked is no text yet, such as a tar, or a file that was packed twice."""
    if packing_of("", head, f"{where}, once unpacked,") != "plain":
        raise DataError(f"{where} is packed twice: unpack it once yourself")


def work_bytes(text: Input) -> int:
    """Bytes that reading it is counted in: of the text, or of the file or member that it is packed in."""
    return text.path.stat().st_size if text.member is None else member_size(text.path, text.member)


def unpacked_size(text: Input) -> int:
    """Bytes of the text. Where a packing does not say it, it is unpacked once to know."""
    if text.packing == "plain":
        return work_bytes(text)
    size, buffer = 0, bytearray(COPY_BYTES)
    with open_text(text) as file:
        while count := cast(io.BufferedIOBase, file).readinto(buffer):
            size += count
    return size
