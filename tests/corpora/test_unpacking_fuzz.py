"""Packed files, damaged at every boundary of their streams or members: the reference tool and megachar agree.

They agree on what is refused, and on the text of what is not. What the tool accepts with a warning counts as refused.
Of a bit that flips inside a stream one release of a decoder sees what another does not: there ours may refuse more.
"""

import io
import itertools
import random
import secrets
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from megachar.base.errors import DataError
from megachar.corpora.inputs import find_inputs, open_text
from tests.corpora.preprocessing_by_hand import pack, random_string

TOOLS = {"gz": ["gzip", "-dc"], "bz2": ["bzip2", "-dc"], "xz": ["xz", "-dc"], "zst": ["zstd", "-dcq", "--long=31"]}
EMPTY_FRAME = b"\x5a\x2a\x4d\x18\x03\0\0\0abc"
"""One that Zstandard skips."""


def text_of_ours(path: Path) -> bytes | None:
    """All of the text, or None where it is refused."""
    found = []
    try:
        for text in find_inputs([path]):
            with open_text(text) as file:
                found.append(file.read())
    except DataError:
        return None
    return b"".join(found)


def text_of_tool(content: bytes, command: list[str]) -> bytes | None:
    done = subprocess.run(command, input=content, capture_output=True, check=False)
    return None if done.returncode or done.stderr else done.stdout


def insertions(packing: str, stream: bytes) -> list[bytes]:
    """What may lie between streams or after them: garbage, zeros of many numbers, other streams, parts of one."""
    zeros = [bytes(count) for count in (1, 2, 3, 4, 8, 511, 70_000)]
    others = [pack(b"other", other) for other in TOOLS if other != packing][:1]
    garbage = [b"g", b"garbage", b"\0\0\0\0g", stream[:1], stream[:4], stream[:-1], b"\n", b"\xff" * 20]
    extra = [EMPTY_FRAME, EMPTY_FRAME[:-1]] if packing == "zst" else []
    return [*zeros, *garbage, *extra, pack(b"", packing), stream, *(others if packing in ("gz", "xz") else [])]


def damaged(draw: random.Random, packing: str, texts: list[bytes]) -> Iterator[tuple[str, bytes]]:
    """Files of some streams, and what is wrong with each."""
    streams = [pack(text, packing) for text in texts]
    whole = b"".join(streams)
    bounds = [sum(map(len, streams[:number])) for number in range(len(streams) + 1)]
    yield "nothing", whole
    for bound in bounds:
        for around in (-9, -8, -5, -4, -1, 0, 1, 2, 4, 6, 11, 13):
            if 20 < bound + around < len(whole):
                yield f"cut at {bound} {around:+}", whole[: bound + around]
        for number, inserted in enumerate(insertions(packing, streams[0])):
            if bound:  # before the first stream it is another kind of file
                yield f"insertion {number} at {bound}", whole[:bound] + inserted + whole[bound:]
        for offset in range(-12, 14):
            if (place := bound + offset) in range(len(whole)) and (place > 9 or not bound):
                flipped = bytearray(whole)
                flipped[place] ^= 1 << draw.randrange(8)
                yield f"flip at {bound} {offset:+}", bytes(flipped)


@pytest.mark.parametrize("packing", list(TOOLS))
def test_streams(tmp_path: Path, packing: str) -> None:
    """Some two hundred damaged files of each packing."""
    command = TOOLS[packing]
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]}")
    seed = secrets.randbits(32)
    draw = random.Random(seed)
    texts = [random_string(draw, 300).encode() + b"first", b"", random_string(draw, 300).encode() + b"last"]
    path = tmp_path / f"text.{packing}"
    for what, content in damaged(draw, packing, texts):
        path.write_bytes(content)
        ours, expected = text_of_ours(path), text_of_tool(content, command)
        is_refused = ours is None and what.startswith("flip")
        assert ours == expected or is_refused, f"{packing}, seed {seed}: {what}"


def archive_of(draw: random.Random) -> tuple[bytes, list[int]]:
    """A zip archive of four texts, and where its members, its directory, each entry there and its end begin and end."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, method in (("a", zipfile.ZIP_DEFLATED), ("b/c", 0), ("d", zipfile.ZIP_DEFLATED), ("e", 0)):
            archive.writestr(name, random_string(draw, 300) + "x", compress_type=method)
    infos = archive.infolist()
    entries = [archive.start_dir + sum(46 + len(info.filename) for info in infos[:n]) for n in range(len(infos) + 1)]
    return buffer.getvalue(), [*(info.header_offset for info in infos), *entries, len(buffer.getvalue())]


def taken_by_zipfile(content: bytes) -> bool:
    """Whether Python's own reader finds nothing wrong and all members, and nothing in front of the first."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = archive.infolist()
            return archive.testzip() is None and len(infos) == 4 and infos[0].header_offset == 0
    except Exception:  # it has many ways of saying no
        return False


def test_damaged_archives(tmp_path: Path) -> None:
    """Some five hundred damaged zip archives: each is refused, or all of its text is read.

    What is cut off or inserted is refused exactly where unzip complains, and at the end also where it does not. A bit
    that flips may be in one of two copies of a size: there unzip believes the one, and Python, as we do, the other.
    What we take of those, Python's own test takes too.
    """
    seed = secrets.randbits(32)
    draw = random.Random(seed)
    content, bounds = archive_of(draw)
    whole = b"".join(zipfile.ZipFile(io.BytesIO(content)).read(name) for name in ("a", "b/c", "d", "e"))
    paths = (tmp_path / f"{number}.zip" for number in itertools.count())  # anew for each: an archive is kept open
    unzip = shutil.which("unzip")
    inserted = [b"g", b"garbage", bytes(1), bytes(4), bytes(512), content, content[:30]]
    changed = [content[: bound + around] for bound in bounds[1:] for around in (-9, -4, -1, 0, 1, 4, 12, 30)]
    changed += [content[:bound] + more + content[bound:] for bound in bounds[1:-1] for more in inserted]
    for number, damage in enumerate(changed):
        (path := next(paths)).write_bytes(damage)
        expected = text_of_tool(b"", [unzip, "-p", str(path)]) if unzip and number % 4 == 0 else text_of_ours(path)
        assert text_of_ours(path) == expected, f"seed {seed}, case {number}"
        assert expected == (whole if damage.startswith(content) else None), f"seed {seed}, case {number}"
    for more in inserted:
        (path := next(paths)).write_bytes(content + more)
        assert text_of_ours(path) == (None if more.strip(b"\0") else whole), f"seed {seed}"
    for bound in bounds:
        for place in range(max(bound - 12, 4), min(bound + 46, len(content))):
            flipped = bytearray(content)
            flipped[place] ^= 1 << draw.randrange(8)
            (path := next(paths)).write_bytes(flipped)
            where, text = f"seed {seed}: flip at {bound} {place - bound:+}", text_of_ours(path)
            assert text is None or (text == whole and taken_by_zipfile(bytes(flipped))), where
