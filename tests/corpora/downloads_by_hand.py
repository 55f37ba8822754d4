"""Downloads of random content from planned servers."""

import hashlib
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import pytest

from megachar.base.errors import DataError
from megachar.corpora.downloads.download import Downloader
from megachar.corpora.downloads.registry import Archive
from megachar.data.digests import Digest
from tests.corpora.corpora_server import Answer, PlannedServer


def archive_of(content: bytes, *addresses: str, **more: Any) -> Archive:
    digest = Digest("sha256", hashlib.sha256(content).hexdigest())
    return Archive(addresses, "corpus.zip", digest, **{"num_bytes": len(content), **more})


def downloader(**settings: Any) -> Downloader:
    """Quick to try again, and deaf to the proxies of the environment."""
    fast: dict[str, Any] = {"attempts": 3, "timeout_seconds": 20, "pause_seconds": 0.001, "chunk_bytes": 4096}
    return Downloader(**{**fast, "opener": build_opener(ProxyHandler({})), **settings})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fetch(content: bytes, target: Path, *plan: Answer, **settings: Any) -> PlannedServer:
    """Download `content` from a server with this plan, successfully; the server, with what it was asked."""
    with PlannedServer(*plan) as server:
        downloader(**settings).fetch(archive_of(content, f"{server.address}/corpus.zip"), target)
    assert target.read_bytes() == content
    assert names(target.parent) == ["corpus.zip"]
    return server


def refuse(content: bytes, target: Path, message: str, *plan: Answer, **settings: Any) -> PlannedServer:
    """The download fails with `message`, and nothing is there under the final name."""
    with PlannedServer(*plan) as server, pytest.raises(DataError, match=message):
        downloader(**settings).fetch(archive_of(content, f"{server.address}/corpus.zip"), target)
    assert not target.exists()
    return server
