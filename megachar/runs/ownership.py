"""Who may write into a run folder: one owner for the life of a run, from any host and on any disk. Imports no torch.

    runs/small/owner.json    who trains or supervises the run; its time of change is the owner's sign of life

A lock on that file decides where the disk has locks. Where it has none, or keeps them to one host, the file itself
does: on the same machine an owner is alive while its process is, on another one while the file keeps changing. An owner
that is taken for dead and comes back finds another's token before it next writes, and ends.
"""

import errno
import fcntl
import os
import secrets
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import datetime, timezone

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from megachar.base.errors import OwnershipError, PlatformError
from megachar.runs.folder import RunFolder
from megachar.watch.rank import machine_name

OWNER_VARIABLE = "MEGACHAR_OWNER"
"""Token of the claim under which a supervisor's ranks train."""
BEAT_SECONDS = 2.0
"""Between two signs of life."""
SILENT_SECONDS = 20.0
"""An owner on another machine is dead after so long without one."""
SETTLE_SECONDS = 1.0
"""Without locks, two that claim a folder at once have both written after so long, and see which of them has it."""
CLOCK_SECONDS = 5.0
"""The start of a process is known to within this: it is told by a clock that may be set."""
OWNER_BYTES = 2048
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class Owner(BaseModel):
    """`owner.json`."""

    model_config = ConfigDict(frozen=True)

    host: str
    machine: str
    """Names what `pid` belongs to (`machine_name`)."""
    pid: int
    started: float
    """When the process started, in seconds since 1970: another one may have its number later."""
    since: float
    """When it claimed the folder, likewise."""
    token: str
    """Of this attempt at the run."""

    @property
    def lives(self) -> bool:
        """Whether its process, which is one of this machine, is there."""
        with suppress(psutil.Error):
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < CLOCK_SECONDS
            return same and process.status() != psutil.STATUS_ZOMBIE
        return False


class Claim:
    """The right to write into a run folder, as a rank has it whose supervisor is the owner."""

    def __init__(self, folder: RunFolder, token: str) -> None:
        self.folder, self.token = folder, token

    def check(self) -> None:
        """`OwnershipError` where another owner has taken the run over, and perhaps given it back since.

        To be called before anything is written.
        """
        owner = read_owner(self.folder)
        if owner is not None and owner.token != self.token:
            raise _taken(self.folder, owner)
        if owner is None and not self.folder.owner_file.exists():
            raise OwnershipError(f"run {self.folder.path} is not this process's any more: its "
                                 f"{self.folder.owner_file.name} is gone, as where another process has taken the run "
                                 f"over and ended; see how far that has come, and continue with --resume")  # fmt: skip

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is to be given back."""


class OwnClaim(Claim):
    """A claim of this process's own: made at once, given back at the end of the block, or with the process."""

    def __init__(self, folder: RunFolder, patience_seconds: float = 0.0) -> None:
        """Make the folder, and this process its owner.

        Args:
            folder: the run's.
            patience_seconds: how long to wait for the end of another owner.

        Raises:
            OwnershipError: it has another, who is alive.
            PlatformError: the folder cannot be written.
        """
        super().__init__(folder, secrets.token_hex(4))
        until, told = time.monotonic() + patience_seconds, False
        while True:
            try:
                self._take()
                break
            except OwnershipError as error:
                if time.monotonic() > until:
                    raise
                if not told:
                    print(f"megachar: {error}. Waiting {patience_seconds:.0f} s for its end", file=sys.stderr,
                          flush=True)  # fmt: skip
                told = True
                time.sleep(BEAT_SECONDS)
        self._over = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="owner", daemon=True)
        self._beats.start()

    def _take(self) -> None:
        folder = self.folder
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            self._file, locked = _open_locked(folder)
        except OSError as error:
            raise _unwritable(folder, error) from error
        try:
            _wait_for_silence(folder)
            self.renew()
            if not locked:
                time.sleep(SETTLE_SECONDS)
                self.check()
        except BaseException:
            os.close(self._file)
            raise

    def renew(self) -> None:
        """Begin another attempt: what is left of those before may write no more. `PlatformError` as above."""
        self.token = secrets.token_hex(4)
        process = psutil.Process()
        owner = Owner(
            host=socket.gethostname(),
            machine=machine_name(),
            pid=process.pid,
            started=process.create_time(),
            since=time.time(),
            token=self.token,
        )
        try:
            # In place, for the lock is on this very file; and always of one length, so that it is whole at any moment.
            os.pwrite(self._file, owner.model_dump_json(indent=1).ljust(OWNER_BYTES - 1).encode() + b"\n", 0)
            os.fsync(self._file)
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def __enter__(self) -> "OwnClaim":
        return self

    def hand_down(self) -> None:
        """Begin another attempt, whose ranks learn from the environment under whose claim they train."""
        self.check()
        self.renew()
        os.environ[OWNER_VARIABLE] = self.token

    def __exit__(self, *error: object) -> None:
        """Give the folder back, and remove it where nothing has come into it."""
        os.environ.pop(OWNER_VARIABLE, None)
        self._over.set()
        self._beats.join()
        with suppress(OSError):
            owner = read_owner(self.folder)
            if owner is not None and owner.token == self.token:
                self.folder.owner_file.unlink()
                self.folder.path.rmdir()
        os.close(self._file)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with suppress(OSError):
                os.utime(self._file)


def claim_run(folder: RunFolder) -> Claim:
    """The claim under which this process, rank 0, trains: its supervisor's, or its own. Raises as `OwnClaim`."""
    token = os.environ.get(OWNER_VARIABLE)
    if token is None:
        return OwnClaim(folder)
    claim = Claim(folder, token)
    claim.check()
    return claim


def read_owner(folder: RunFolder) -> Owner | None:
    """Who has claimed the folder last, dead or alive; None where nobody has, or it is just being written."""
    try:
        return Owner.model_validate_json(folder.owner_file.read_bytes())
    except (OSError, ValidationError):
        return None


def _open_locked(folder: RunFolder) -> tuple[int, bool]:
    """A descriptor of the folder's file, and whether the disk has locked it."""
    while True:
        file, locked = os.open(folder.owner_file, os.O_RDWR | os.O_CREAT, 0o644), True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise _taken(folder, _holder(folder)) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(file)
                raise
            locked = False
        with suppress(FileNotFoundError):
            if folder.owner_file.stat().st_ino == os.fstat(file).st_ino:
                return file, locked
        os.close(file)  # its owner has just given it back


def _holder(folder: RunFolder) -> Owner | None:
    """Who has the lock: they say so right after they have got it, and until then the file is of an owner before."""
    owner, until = read_owner(folder), time.monotonic() + SETTLE_SECONDS
    while (owner is None or _is_dead(owner)) and time.monotonic() < until:
        time.sleep(0.02)
        owner = read_owner(folder)
    return owner


def _is_dead(owner: Owner) -> bool:
    """Whether it is known to be: it was a process of this machine."""
    return owner.machine == machine_name() and not owner.lives


def is_at_work(folder: RunFolder) -> bool:
    """Whether the run has an owner who gives signs of life, as far as that shows without waiting for one."""
    owner = read_owner(folder)
    if owner is None:
        return False
    if owner.machine == machine_name():
        return owner.lives
    return time.time() - _last_sign(folder) / 1e9 < SILENT_SECONDS


def _wait_for_silence(folder: RunFolder) -> None:
    """`OwnershipError` where the owner before is alive; on another machine, that takes `SILENT_SECONDS` to see."""
    owner = read_owner(folder)
    if owner is None:
        return
    if owner.machine == machine_name():
        if owner.lives:
            raise _taken(folder, owner)
        return
    print(f"megachar: run {folder.path} was last claimed by process {owner.pid} on {owner.host}; looking for "
          f"{SILENT_SECONDS:.0f} s whether that is at work", file=sys.stderr, flush=True)  # fmt: skip
    before, until = _last_sign(folder), time.monotonic() + SILENT_SECONDS
    while time.monotonic() < until:
        time.sleep(BEAT_SECONDS / 4)
        if _last_sign(folder) != before:
            raise _taken(folder, read_owner(folder) or owner)


def _last_sign(folder: RunFolder) -> int:
    """When the file last changed. It is opened for that: a network disk may else tell what it told before."""
    try:
        with folder.owner_file.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return 0


def _taken(folder: RunFolder, owner: Owner | None) -> OwnershipError:
    who = "another process"
    if owner is not None:
        since = datetime.fromtimestamp(owner.since, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        who = f"process {owner.pid} on {owner.host}, since {since}"
    return OwnershipError(f"run {folder.path} is at work: {who}; wait for its end, send it SIGTERM to save and leave, "
                          f"or set name=ANOTHER")  # fmt: skip


def _unwritable(folder: RunFolder, error: OSError) -> PlatformError:
    return PlatformError(f"the run folder {folder.path} cannot be written: {error}; make it writable, free space, or "
                         f"set output=FOLDER")  # fmt: skip
