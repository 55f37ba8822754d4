"""The secret of one attempt at a run. Who can read it in the run folder belongs to the run, and proves it untold."""

import hashlib
import hmac
import os
import re
import secrets
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path

from megachar.base.errors import ConfigError, PlatformError
from megachar.base.files import json_text

SEEN_SECONDS = 5.0
"""After which a shared disk has to show on one host what was written on another."""
KEY_BYTES = 32


@dataclass(frozen=True)
class Secret:
    """A key and its name."""

    name: str
    """Names the attempt. Anyone may know it."""
    key: bytes = field(repr=False)

    @staticmethod
    def new() -> "Secret":
        """One that nobody has had before."""
        return Secret(secrets.token_hex(8), secrets.token_bytes(KEY_BYTES))

    @staticmethod
    def read(folder: Path, name: str) -> "Secret":
        """The secret that another process has written into a folder.

        Raises:
            PlatformError: it cannot be read, or is not this user's.
        """
        if not re.fullmatch(r"[0-9a-f]{16}", name):
            raise PlatformError(f"{name[:40]!r} names no secret of a run")
        path = _path(folder, name)
        appears(path, SEEN_SECONDS)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                state = os.fstat(descriptor)
                key = file.read(KEY_BYTES + 1) if stat.S_ISREG(state.st_mode) else b""
        except OSError as error:
            raise PlatformError(f"{path} cannot be read: {error.strerror}; all processes of a run need the same run "
                                f"folder and user") from error  # fmt: skip
        # As root on a disk that takes root for nobody, what one writes is another's; so is the folder then.
        if len(key) != KEY_BYTES or state.st_uid not in (os.geteuid(), folder.stat().st_uid):
            raise PlatformError(f"{path} is no secret that this user has written; look who can write to {folder}")
        return Secret(name, key)

    def write(self, folder: Path) -> None:
        """Put it into a folder, for this user's eyes alone.

        Raises:
            ConfigError: the folder, which is in the run folder, cannot be written.
        """
        path = _path(folder, self.name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(self.key)
        except OSError as error:
            raise ConfigError(f"the run folder {folder.parent} cannot be written: {error}; make it writable, free "
                              f"space, or set output=ANOTHER") from error  # fmt: skip

    def remove(self, folder: Path) -> None:
        """Take it out of the folder again, if it is there."""
        _path(folder, self.name).unlink(missing_ok=True)

    def proof(self, *said: str) -> str:
        """Shows those who have the key that whoever said these words has it too."""
        return hmac.new(self.key, json_text(said).encode(), hashlib.sha256).hexdigest()

    def proves(self, proof: str, *said: str) -> bool:
        """Whether `proof` is what `proof(*said)` gives."""
        return hmac.compare_digest(proof.encode(), self.proof(*said).encode())


def appears(path: Path, seconds: float) -> bool:
    """Whether a file is seen within so many seconds: a network file system may show a new one late."""
    until = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.1)
    return path.exists()


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.secret"
