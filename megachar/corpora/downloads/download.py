"""Downloads that survive a bad connection: what has arrived is kept as NAME.part, and only the rest is asked for again.

NAME itself appears once the whole file is there and has the right hash.
"""

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import OpenerDirector, Request, build_opener

from megachar.base.errors import DataError
from megachar.base.files import json_text
from megachar.corpora.downloads.registry import Archive
from megachar.data.digests import Progress, hash_file

# Some publishers refuse Python's own name.
USER_AGENT = "megachar (corpus download)"
RETRIED_STATUSES = (408, 425, 429, 500, 502, 503, 504)
MAX_PAUSE_SECONDS = 30.0

Stage = Callable[[str, int | None], AbstractContextManager[Progress]]
"""Opens a stage of the work: its title and number of bytes, where known -> what to call with the bytes done."""


def silent_stage(title: str, num_bytes: int | None) -> AbstractContextManager[Progress]:
    """A stage that shows nothing."""
    return nullcontext(lambda done: None)


class _Interrupted(Exception):
    """The connection failed in a way that another attempt may mend."""


class _Refused(Exception):
    """This address will not give the file."""


@dataclass(frozen=True)
class _Found:
    """What a server's answer says of the file."""

    start: int
    """The byte that the body starts with; -1 where there is no byte that was asked for."""
    total: int | None
    """Size of the whole file; None where the server does not tell."""
    validator: str | None
    """What identifies this version of the file in If-Range: a strong ETag, else the date of the last change."""

    @property
    def identity(self) -> dict[str, str | int | None]:
        """What two answers about the same version of the file have in common."""
        return {"validator": self.validator, "total": self.total}


@dataclass(frozen=True)
class Downloader:
    """How downloads are made."""

    attempts: int = 5
    """At each address, in a row without a MiB of progress, before it is given up."""
    timeout_seconds: float = 30.0
    """Longest silence of the server."""
    pause_seconds: float = 1.0
    """Before the second attempt; doubled before each further one."""
    progress_bytes: int = 1 << 20
    """An attempt that brought so much does not count."""
    chunk_bytes: int = 1 << 18
    opener: OpenerDirector = field(default_factory=build_opener)
    """The proxies of the environment (http_proxy, https_proxy, no_proxy) are used."""
    tell: Callable[[str], None] = lambda message: None
    """Called with what goes wrong on the way."""

    def fetch(self, archive: Archive, target: Path, stage: Stage = silent_stage) -> Path:
        """Bring `archive` to the file `target`, unless it is there already, and return that.

        DataError where no address gives the file, it has a wrong hash, `target` is another file, or the disk is full.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        failures = []
        with _only_one(part_path(target)) as part:
            if target.exists():
                self._check(archive, target, target, "; move it away to download it again", stage)
                return target
            for address in archive.addresses:
                try:
                    self._fetch_from(address, archive, target, part, stage)
                    return target
                except _Refused as refusal:
                    failures.append(f"{address}: {refusal}")
                    self.tell(failures[-1])
        raise DataError(
            f"{archive.name} could not be downloaded. {'; '.join(failures)}. "
            "Try again later (what has arrived is kept), or get the file another way and give it to --from"
        )

    def _fetch_from(self, address: str, archive: Archive, target: Path, part: BinaryIO, stage: Stage) -> None:
        """Bring the file from one address; _Refused where that fails for good."""
        for _ in range(2):
            pieced = self._receive_all(address, archive, target, part, stage)
            os.fsync(part.fileno())
            try:
                self._check(archive, part_path(target), "the download", "", stage)
            except DataError as error:
                hint = _hint_of_content(part)
                _forget(target, part)
                if not pieced:
                    raise _Refused(f"{error}{hint}") from None
                # The file may have changed between its pieces.
                self.tell(f"{error}; it was put together from pieces: downloading it in one")
                continue
            part_path(target).rename(target)
            _note_path(target).unlink(missing_ok=True)
            return
        raise _Refused("its pieces do not fit together, and the connection is too bad to get it in one")

    def _receive_all(self, address: str, archive: Archive, target: Path, part: BinaryIO, stage: Stage) -> bool:
        """Receive until `part` is the whole file; returns whether it was put together from several answers."""
        failures = 0
        with stage(f"Downloading {archive.name}", None if archive.about else archive.num_bytes) as progress:
            progress(_size(part))
            while True:
                before = _size(part)
                try:
                    return self._receive(address, archive, target, part, progress)
                except _Interrupted as error:
                    failures = 1 if _size(part) - before >= self.progress_bytes else failures + 1
                    if failures >= self.attempts:
                        raise _Refused(f"{error} (attempt {failures} of {self.attempts})") from None
                    pause = min(self.pause_seconds * 2 ** (failures - 1), MAX_PAUSE_SECONDS)
                    self.tell(f"{error}; {_size(part):,} bytes are kept, next attempt in {pause:g} s")
                    time.sleep(pause)

    def _receive(self, address: str, archive: Archive, target: Path, part: BinaryIO, progress: Progress) -> bool:
        """One answer of the server, appended to `part`; returns, when that is whole, whether it was begun before."""
        size, note = _size(part), _read_note(target)
        if size and size == (note.get("total") if archive.about else archive.num_bytes):
            return True
        known = note if note.get("address") == address else {}
        response = self._open(address, size, known.get("validator"))
        with response:
            found = _read_headers(response, size)
            if size and found.start == found.total:
                return True
            fits = all(known.get(what) in (None, value) for what, value in found.identity.items() if value is not None)
            if found.start and (found.start != size or not fits):
                progress(-size)
                _forget(target, part)
                raise _Interrupted("the file changed at the server, so the part that was kept is of no use")
            if size and not found.start:  # all of it: the server knows no parts, or the file changed
                progress(-size)
                _forget(target, part)
            total = found.total
            if total is not None and (total > archive.max_bytes or (total != archive.num_bytes and not archive.about)):
                raise _Refused(f"it has a file of {total:,} bytes, but {archive.name} has {archive.num_bytes:,}")
            check_space(target.parent, (total or archive.num_bytes) - found.start)
            _note_path(target).write_text(json_text({"address": address, **found.identity}))
            self._copy(response, part, found, archive, progress)
        return found.start > 0

    def _open(self, address: str, size: int, validator: str | None) -> Any:
        """The server's answer to a request for the file from byte `size` on."""
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        if size:
            headers["Range"] = f"bytes={size}-"
            if validator is not None:
                headers["If-Range"] = validator
        try:
            return self.opener.open(Request(address, headers=headers), timeout=self.timeout_seconds)
        except HTTPError as error:
            if error.code == 416 and size:
                return error  # which is an answer as well: there are no such bytes
            error.close()
            message = f"the server answers {error.code} {error.reason}"
            raise (_Interrupted if error.code in RETRIED_STATUSES else _Refused)(message) from None
        except (URLError, OSError, HTTPException) as error:
            raise _Interrupted(_reason(error)) from None

    def _copy(self, response: Any, part: BinaryIO, found: _Found, archive: Archive, progress: Progress) -> None:
        """Append the body to `part`; _Interrupted where it ends early, _Refused where it does not end."""
        done, total = found.start, found.total or (None if archive.about else archive.num_bytes)
        while total is None or done < total:
            wanted = self.chunk_bytes if total is None else min(self.chunk_bytes, total - done)
            try:
                chunk = response.read1(wanted)
            except (OSError, HTTPException) as error:
                raise _Interrupted(_reason(error)) from None
            if not chunk:
                break
            part.write(chunk)
            part.flush()
            done += len(chunk)
            progress(len(chunk))
            if done > archive.max_bytes:
                raise _Refused(f"it sends more than the {archive.max_bytes:,} bytes that {archive.name} can have")
        if total is not None and done < total:
            raise _Interrupted(f"the connection ended at {done:,} of {total:,} bytes")

    def _check(self, archive: Archive, path: Path, what: object, mend: str, stage: Stage) -> None:
        """DataError unless the file `path` has the archive's hash."""
        with stage(f"Verifying {archive.name}", path.stat().st_size) as progress:
            found = hash_file(path, archive.digest.algorithm, progress)
        archive.digest.check(found, what, mend)


def part_path(target: Path) -> Path:
    """Where an unfinished download of `target` is kept."""
    return target.with_name(target.name + ".part")


def check_space(folder: Path, num_bytes: int) -> None:
    """DataError unless the disk of `folder`, or of the nearest folder above that exists, has so much room."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise DataError(
            f"{folder} has room for {free:,} bytes, but {num_bytes:,} are needed: make room, or choose another disk"
        )


def _note_path(target: Path) -> Path:
    """What is known of the file that NAME.part is a part of: the address, the validator, the size."""
    return target.with_name(target.name + ".part.json")


def _forget(target: Path, part: BinaryIO) -> None:
    """Drop what has arrived."""
    part.truncate(0)
    _note_path(target).unlink(missing_ok=True)


def _size(part: BinaryIO) -> int:
    return os.fstat(part.fileno()).st_size


def _read_note(target: Path) -> dict[str, Any]:
    try:
        note = json.loads(_note_path(target).read_bytes())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


@contextmanager
def _only_one(path: Path) -> Iterator[BinaryIO]:
    """The part file, open for appending and locked; DataError where another process downloads it at the moment."""
    with path.open("a+b") as part:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another process is downloading {path}: wait for it, or choose another folder") from None
        yield part
        empty = _size(part) == 0
    if empty:
        path.unlink(missing_ok=True)


def _read_headers(response: Any, size: int) -> _Found:
    """What the answer to a request for the bytes from `size` on says; _Refused where it makes no sense."""
    headers = response.headers
    etag, ranges = headers.get("ETag"), (headers.get("Content-Range") or "").strip()
    validator = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")
    if response.status == 200:
        length = headers.get("Content-Length") or ""
        return _Found(0, int(length) if length.isdecimal() else None, validator)
    if response.status == 206 and (match := re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", ranges)):
        return _Found(int(match[1]), None if match[2] == "*" else int(match[2]), validator)
    if response.status == 416:  # no bytes from `size` on: the part is all of the file, or of another file
        return _Found(size, size, validator) if ranges == f"bytes */{size}" else _Found(-1, None, validator)
    raise _Refused(
        f"the server answers {response.status} with Content-Range {ranges!r} to a request for byte {size:,} on"
    )


def _reason(error: BaseException) -> str:
    """What went wrong with a connection, for people."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return "the server fell silent"
    return f"the connection failed ({type(reason).__name__}: {reason})"


def _hint_of_content(part: BinaryIO) -> str:
    """What a wrong file may be, by its first bytes."""
    part.seek(0)
    start = part.read(64).lstrip()
    return " (it starts like a web page: a login or an error?)" if start.startswith(b"<") else ""
