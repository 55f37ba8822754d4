"""Texts out of an archive or a folder: found by their names, in a stream, each checked against its hash."""

import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path, PurePosixPath
from typing import IO

from megachar.base.errors import DataError
from megachar.corpora.downloads.registry import NamedCorpus, TextFile
from megachar.data.digests import Progress, update_hash

CHUNK_BYTES = 1 << 20

Members = dict[str, Path]
"""The files that a text consists of: their paths in the archive or folder -> where they lie."""


def is_archive(path: Path) -> bool:
    """Whether `path` is a .zip, or a .tar with or without compression, by its content; DataError on a damaged one."""
    with _damage_told(path):
        return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def find_members(corpus: NamedCorpus, folder: Path) -> dict[TextFile, Members]:
    """The files of each text of `corpus` in `folder` and the folders below."""
    found: dict[TextFile, Members] = {text: {} for text in corpus.texts}
    folder = folder.resolve()  # for its own name, which may be a part of a member's
    for path in folder.rglob("*"):
        for text in corpus.texts:
            if path.is_file() and text.matches(path.relative_to(folder.parent).as_posix()):
                found[text][path.relative_to(folder).as_posix()] = path
    return found


def extract_members(corpus: NamedCorpus, archive: Path, folder: Path, progress: Progress) -> dict[TextFile, Members]:
    """Unpack the files of each text of `corpus`, and nothing else, from `archive` into `folder`.

    DataError where the archive is damaged.
    """
    found: dict[TextFile, Members] = {text: {} for text in corpus.texts}
    numbers = count()
    for name, chunks in _files_in(archive):
        for text in corpus.texts:
            if text.matches(name):
                # Never a path from the archive, which could point anywhere; a number, as names may come twice.
                path = folder / str(next(numbers)) / PurePosixPath(name).name
                path.parent.mkdir()
                with path.open("wb") as unpacked:
                    for chunk in chunks:
                        unpacked.write(chunk)
                        progress(len(chunk))
                found[text][name] = path
    return found


def check_text(corpus: NamedCorpus, text: TextFile, members: Members, folder: Path, progress: Progress) -> list[Path]:
    """The files of `text` in the order of their names, once its hash is right; without the spaces at the ends of lines,
    where the corpus wants that, in `folder`.

    DataError where files are missing or the hash is wrong.
    """
    if len(members) != text.num_members:
        raise DataError(
            f"{len(members)} of the {text.num_members} files {text.member} of {corpus.name} were found: "
            "give the whole archive, or the folder that it unpacks to"
        )
    names = sorted(members)
    if text.digest is not None:
        hashed = text.digest.start()
        for name in names:
            update_hash(hashed, members[name], progress)
        text.digest.check(hashed.hexdigest(), ", ".join(names), f"; get {corpus.archive.name} again")
    if not corpus.strip_lines:
        return [members[name] for name in names]
    return [_strip_lines(members[name], folder) for name in names]


def _strip_lines(path: Path, folder: Path) -> Path:
    """A copy of `path` in `folder` without the spaces at both ends of each line."""
    stripped = folder / path.name
    with path.open("rb") as text, stripped.open("wb") as copy:
        for line in text:
            end = b"\n" if line.endswith(b"\n") else b""
            copy.write(line.removesuffix(b"\n").strip(b" ") + end)
    return stripped


def _files_in(archive: Path) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Every file in `archive`, in the order in which they lie there: its path, and its content in chunks.

    DataError where the archive is damaged.
    """
    with _damage_told(archive):
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                for member in packed.infolist():
                    if not member.is_dir():
                        with packed.open(member) as file:
                            yield member.filename, _chunks_of(file, archive)
            return
        # "|" reads a compressed archive once, from its start to its end.
        with tarfile.open(archive, "r|*") as stream:
            for entry in stream:
                content = stream.extractfile(entry) if entry.isfile() else None
                if content is not None:
                    yield entry.name, _chunks_of(content, archive)


def _chunks_of(file: IO[bytes], archive: Path) -> Iterator[bytes]:
    with _damage_told(archive):
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


@contextmanager
def _damage_told(archive: Path) -> Iterator[None]:
    """Errors while reading `archive` as a DataError: Python's readers raise all sorts on a damaged one."""
    try:
        yield
    except Exception as error:
        raise DataError(
            f"{archive} cannot be unpacked ({type(error).__name__}: {error}): it is damaged; get it again"
        ) from None
