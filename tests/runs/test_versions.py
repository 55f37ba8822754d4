"""What a run notes of the code, libraries and machines that it trains with."""

import json
from pathlib import Path
from typing import Any

import pytest

from megachar.runs import versions
from megachar.runs.folder import RunFolder, starts_of
from megachar.runs.versions import record_versions

FIRST = {"torch": "2.12.0", "hosts": ["a"]}


def recorded(folder: RunFolder) -> list[dict[str, Any]]:
    return list(json.loads(folder.versions_file.read_text())["starts"])


def test_a_start_on_the_same_adds_nothing_and_one_on_others_says_so(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert record_versions(folder, FIRST, 0) == ""
    assert record_versions(folder, FIRST, 300) == ""
    assert recorded(folder) == [{"from_step": 0, **FIRST}]
    second = {"torch": "2.13.0", "hosts": ["b", "c", "d", "e", "f"], "commit": "0" * 40}
    said = record_versions(folder, second, 500)
    assert said == "changed since the last start: torch 2.12.0 -> 2.13.0, hosts a -> b, c, d and 2 more"
    assert recorded(folder) == [{"from_step": 0, **FIRST}, {"from_step": 500, **second}]
    assert "commit 0000" in record_versions(folder, FIRST, 600)
    assert len(recorded(folder)) == 3


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"torch": NaN}', b"[" * 100_000])
def test_a_damaged_file_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    folder = RunFolder(tmp_path)
    folder.versions_file.write_bytes(content)
    assert "is started over, as it could not be read" in record_versions(folder, FIRST, 7)
    assert recorded(folder) == [{"from_step": 7, **FIRST}]


@pytest.mark.parametrize("values", [FIRST, {"starts": [FIRST]}, {"starts": [3, FIRST, None]}])
def test_starts_of_files_old_and_new(values: dict[str, Any]) -> None:
    assert starts_of(values) == [FIRST]


@pytest.mark.parametrize("starts", [[], [3], 5, None, {}])
def test_starts_that_are_none_end_in_no_error(tmp_path: Path, starts: Any) -> None:
    folder = RunFolder(tmp_path)
    folder.versions_file.write_text(json.dumps({"starts": starts}))
    assert record_versions(folder, FIRST, 7) == ""
    assert recorded(folder)[-1] == {"from_step": 7, **FIRST}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n", "535.104.05"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs)\n", "570.86.15"),
        ("something else\n", ""),
    ],
)
def test_the_driver_says_its_version(line: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_read", lambda path: line)
    assert versions._driver_version() == found
