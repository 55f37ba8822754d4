"""The file a report goes to. Imports no torch."""

import secrets
from pathlib import Path
from typing import Final

from megachar.base.errors import ConfigError
from megachar.cli.shared.options import check_folder_of
from megachar.evaluation.result import replace_file

GENERATOR: Final = '<meta name="generator" content="megachar '
"""By which a report is known, in its first few hundred characters."""


def check_output(path: Path) -> None:
    """ConfigError where a report cannot be written to `path`, or would replace what is no report."""
    check_folder_of(path, "--output")
    try:
        if path.exists() and GENERATOR.encode() not in path.read_bytes()[:2000]:
            raise ConfigError(f"--output {path} exists and is no report of megachar's; name another file")
        probe = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"--output {path} cannot be written: {error.strerror}; name another file") from error


def write_page(path: Path, page: str) -> None:
    """Write a page; ConfigError where that fails, and then `path` is as it was."""
    replace_file(path, lambda file: file.write_text(page, encoding="utf-8"))
