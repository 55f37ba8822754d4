"""Downloads on full disks, by two processes at once, and by one that is killed."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from megachar.base.errors import DataError
from megachar.corpora.downloads.download import Downloader, check_space, part_path
from tests.corpora.corpora_server import PlannedServer, file, stalling
from tests.corpora.downloads_by_hand import archive_of, downloader, fetch, refuse

ROOT = Path(__file__).parents[2]


def test_no_room(content: bytes, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=len(content) - 1))
    refuse(content, target, r"has room for [\d,]+ bytes, but [\d,]+ are needed: make room", file(content))
    # What is there already needs no room.
    part_path(target).write_bytes(content[:1])
    fetch(content, target, file(content))


def test_room_in_a_folder_to_be(tmp_path: Path) -> None:
    check_space(tmp_path / "not" / "yet", 0)
    with pytest.raises(DataError, match=rf"{tmp_path} has room for"):
        check_space(tmp_path / "not" / "yet", 1 << 62)


def test_full_disk_keeps_what_has_arrived(content: bytes, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, part: Any) -> None:
            self.part = part

        def write(self, chunk: bytes) -> int:
            if os.fstat(self.part.fileno()).st_size + len(chunk) > 20_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return int(self.part.write(chunk))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.part, name)

    copy = Downloader._copy
    monkeypatch.setattr(
        Downloader, "_copy", lambda self, response, part, *more: copy(self, response, Full(part), *more)
    )
    with PlannedServer(file(content)) as server, pytest.raises(OSError, match="No space left"):
        downloader().fetch(archive_of(content, server.address), target)
    assert not target.exists()
    kept = part_path(target).read_bytes()
    assert kept == content[: len(kept)] != b""
    monkeypatch.undo()
    assert fetch(content, target, file(content)).ranges == [f"bytes={len(kept)}-"]


def test_two_at_once(content: bytes, target: Path) -> None:
    target.parent.mkdir()
    with part_path(target).open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is downloading"):
            downloader().fetch(archive_of(content), target)
    fetch(content, target, file(content))


def test_killed_in_the_middle(content: bytes, target: Path) -> None:
    """A process that is killed leaves a part, from which the next one goes on."""
    code = """
import json, sys
from pathlib import Path
from megachar.data.digests import Digest
from megachar.corpora.downloads.download import Downloader
from megachar.corpora.downloads.registry import Archive
address, sha256, size, target = json.loads(sys.argv[1])
Downloader(timeout_seconds=30).fetch(Archive((address,), "corpus.zip", Digest("sha256", sha256), size), Path(target))
"""
    with PlannedServer(stalling(content, 12_345), file(content, etag=None)) as server:
        arguments = json.dumps([server.address, hashlib.sha256(content).hexdigest(), len(content), str(target)])
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "no_proxy": "127.0.0.1"}
        process = subprocess.Popen([sys.executable, "-c", code, arguments], env=environment)
        try:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline and process.poll() is None:
                if part_path(target).exists() and part_path(target).stat().st_size == 12_345:
                    break
                time.sleep(0.01)
            assert process.poll() is None
        finally:
            process.kill()
            process.wait(10)
        assert not target.exists()
        downloader().fetch(archive_of(content, server.address), target)
    assert target.read_bytes() == content
    assert server.ranges == [None, "bytes=12345-"]
