"""What launcher/environment.sh installs, with an interpreter that only notes what it is asked for."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = """#!/bin/sh
case "$*" in
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip install "*) shift $(($# - 1)); echo "$1" >>"$NOTES" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with nothing but what the script reads."""
    (tmp_path / "launcher").mkdir()
    shutil.copy(ROOT / "launcher" / "environment.sh", tmp_path / "launcher")
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("first\n")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def installed(checkout: Path, extra: str) -> list[str]:
    """What is installed when a script that sets `extra` asks for the environment."""
    notes = checkout / "notes"
    notes.write_text("")
    variables = {**os.environ, "PYTHON": str(checkout / "python"), "NOTES": str(notes)}
    script = f"set -euo pipefail; {extra}; source launcher/environment.sh"
    subprocess.run(["bash", "-c", script], cwd=checkout, env=variables, check=True, capture_output=True)
    return notes.read_text().splitlines()


def test_users_get_no_tools_of_development(checkout: Path) -> None:
    """The first command installs megachar alone; the tests' command adds to it, and neither undoes the other's."""
    user, developer = ":", "extra=dev"
    assert installed(checkout, user) == ["."]
    assert installed(checkout, user) == []
    assert installed(checkout, developer) == [".[dev]"]
    assert installed(checkout, user) == installed(checkout, developer) == []
    (checkout / "constraints.txt").write_text("second\n")
    assert installed(checkout, developer) == [".[dev]"]
    assert installed(checkout, user) == []
