import secrets
from pathlib import Path

import pytest


@pytest.fixture
def content() -> bytes:
    """What a server has to give."""
    return secrets.token_bytes(50_000 + secrets.randbelow(1000))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where it shall go."""
    return tmp_path / "downloads" / "corpus.zip"
