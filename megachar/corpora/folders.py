"""Folders and globs: every file below once, whatever links lead to it, and no folder passed over in silence."""

import fnmatch
import os
import re
from collections.abc import Iterator
from pathlib import Path

Identity = tuple[int, int]
"""Device and inode: of a file or folder, whatever its names."""


def identity(path: Path) -> Identity:
    """What tells whether two names are one file; links are followed."""
    status = path.stat()
    return status.st_dev, status.st_ino


def left_out(name: str) -> bool:
    """Whether no container's file or folder of this name is read: hidden, or what macOS adds to archives."""
    return name == "__MACOSX" or (name.startswith(".") and name not in (".", ".."))


def walk(folder: Path, entered: set[Identity]) -> Iterator[tuple[Path, list[Path]]]:
    """Each folder from `folder` down, with all in it that is no folder, and that is not left out.

    Links to folders are followed, but none is entered that is in `entered`, to which each is added: circles end. What
    the file system raises where it cannot look passes.
    """
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        if (here := identity(current)) in entered:
            continue
        entered.add(here)
        inside = [entry for entry in sorted(current.iterdir()) if not left_out(entry.name)]
        folders = [entry for entry in inside if entry.is_dir()]
        yield current, [entry for entry in inside if not entry.is_dir()]
        waiting += reversed(folders)


def files_of(path: Path, entered: set[Identity]) -> Iterator[Path]:
    """All below a folder that is no folder, or the path itself where it is none."""
    if not path.is_dir():
        yield path
        return
    for _, files in walk(path, entered):
        yield from files


def matches(pattern: str) -> Iterator[Path]:
    """What a glob stands for: *, ? and [] in names, and ** for any folders, also none. Circles of links end."""
    path = Path(pattern)
    return _matches(Path(path.anchor), path.relative_to(path.anchor).parts)


def _matches(folder: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    if not parts:
        yield folder
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        for inner, _ in walk(folder, set()) if folder.is_dir() else ():
            yield from _matches(inner, rest)
    elif not re.search(r"[*?[]", part):
        if os.path.lexists(folder / part):
            yield from _matches(folder / part, rest)
    elif folder.is_dir():
        for entry in sorted(folder.iterdir()):
            if fnmatch.fnmatchcase(entry.name, part) and (part.startswith(".") or not left_out(entry.name)):
                yield from _matches(entry, rest)
