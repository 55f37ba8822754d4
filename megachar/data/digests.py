"""Hashes of files, read in a stream: by them a download, a text or a dataset is known to be the right one."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megachar.base.errors import DataError

# Large, since this may be a thread that has to wait for its turn after each.
BUFFER_BYTES = 8 << 20

Progress = Callable[[int], None]
"""Called with the number of bytes done since the last call."""


@dataclass(frozen=True)
class Digest:
    """A hash that a file must have."""

    algorithm: str
    """A name that `hashlib` knows: md5, sha1 or sha256, whichever the publisher or the users of a file wrote down."""
    hexadecimal: str

    def __str__(self) -> str:
        return f"{self.algorithm} {self.hexadecimal}"

    def start(self) -> Any:
        """A hash of this kind, of nothing yet."""
        return hashlib.new(self.algorithm, usedforsecurity=False)

    def check(self, found: str, what: object, mend: str) -> None:
        """DataError, with the mend, unless `found`, the hash of `what`, is this one."""
        if found != self.hexadecimal:
            raise DataError(
                f"{what} is not the file it should be: its {self.algorithm} is {found}, not {self.hexadecimal}{mend}"
            )


def hash_file(path: Path, algorithm: str, progress: Progress | None = None) -> str:
    """The hash of the file `path`, as hexadecimal digits."""
    hashed = hashlib.new(algorithm, usedforsecurity=False)
    update_hash(hashed, path, progress)
    return str(hashed.hexdigest())


def update_hash(hashed: Any, path: Path, progress: Progress | None = None) -> None:
    """Add the content of the file `path` to a running hash."""
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hashed.update(buffer[:count])
            if progress is not None:
                progress(count)
