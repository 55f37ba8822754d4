"""Files are whole or not there, also after a power cut."""

import json
import math
import os
from pathlib import Path

import pytest

from megachar.base.files import atomic_write, json_text, shown


def test_a_file_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    """Until the block ends the old content has the name; then the new one, and nothing lies beside it."""
    path = tmp_path / "card.json"
    path.write_text("old")
    with atomic_write(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
        assert part.suffix == ".json"  # which some writers go by
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    """Whatever ends the block, and whether or not it wrote already."""
    path = tmp_path / "card.json"
    path.write_text("old")

    def write_half() -> None:
        with atomic_write(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_disk_has_the_content_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content is sent to the disk, then the file is renamed, then the folder, which holds the name, is sent."""
    path, events = tmp_path / "card.json", []

    def fsync(descriptor: int) -> None:
        synced = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append(("folder" if synced == tmp_path else "content", path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_write(path) as part:
        part.write_text("new")
    assert events == [("content", False), ("folder", True)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"caf\xc3\xa9 $x", "café $x"),
        (b"caf\xe9", r"caf\xe9"),
        (b"a\nb\x1b[31m", r"a\nb\x1b[31m"),
        (b"\xe2\x80\xaea", r"\u202ea"),
    ],
)
def test_names_are_shown_escaped(name: bytes, text: str) -> None:
    """What is no UTF-8, what acts on a terminal and what turns text round; letters of any language are left alone."""
    assert shown(os.fsdecode(name)) == text
    assert shown(Path(os.fsdecode(name))).encode()


def test_json_has_no_word_for_what_is_not_finite() -> None:
    values = {"a": math.nan, "b": [1.5, math.inf, (-math.inf, None)], "c": {"d": math.nan}, "e": "NaN"}
    expected = {"a": None, "b": [1.5, None, [None, None]], "c": {"d": None}, "e": "NaN"}
    assert json.loads(json_text(values), parse_constant=pytest.fail) == expected
