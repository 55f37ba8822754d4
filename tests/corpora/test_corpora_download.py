"""Downloads from servers that stall, lie and cut off: whole and right in the end, or an error that says why."""

import hashlib
import secrets
import time
from pathlib import Path
from typing import Any

import pytest

from megachar.base.errors import DataError
from megachar.corpora.downloads.download import part_path
from tests.corpora.corpora_server import (
    PlannedServer,
    Request,
    chunked,
    file,
    stalling,
    status,
    without_length,
    without_ranges,
)
from tests.corpora.downloads_by_hand import archive_of, downloader, fetch, names, refuse


def test_whole_at_once(content: bytes, target: Path) -> None:
    server = fetch(content, target, file(content))
    assert server.ranges == [None]
    assert "python" not in server.requests[0][1]["User-Agent"].lower()  # which some publishers refuse


@pytest.mark.parametrize(
    "headers", [{}, {"etag": None}, {"etag": None, "Last_Modified": "Sat, 04 Mar 2006 00:00:00 GMT"}]
)
def test_cut_off_again_and_again(content: bytes, target: Path, headers: dict[str, Any]) -> None:
    sizes = [1000 + secrets.randbelow(5000) for _ in range(4)]
    server = fetch(content, target, *(file(content, sends=size, **headers) for size in sizes), file(content, **headers),
                   progress_bytes=1000)  # fmt: skip
    stops = [sum(sizes[:number]) for number in range(1, 5)]
    assert server.ranges == [None, *(f"bytes={stop}-" for stop in stops)]
    wanted = {"etag": '"1"'}.get("etag") if not headers else headers.get("Last_Modified")
    assert [request[1].get("If-Range") for request in server.requests] == [None] + 4 * [wanted]


def test_weak_etags_are_no_condition(content: bytes, target: Path) -> None:
    """They tell of the same meaning, not of the same bytes; the date of the last change is taken instead."""
    date = "Sat, 04 Mar 2006 00:00:00 GMT"
    weak = {"etag": 'W/"1"', "Last_Modified": date}
    server = fetch(content, target, file(content, sends=5000, **weak), file(content, **weak))  # type: ignore[arg-type]
    assert [request[1].get("If-Range") for request in server.requests] == [None, date]


def test_resumed_by_the_next_call(content: bytes, target: Path) -> None:
    refuse(content, target, r"the connection ended at 700 of 5\d,\d\d\d bytes \(attempt 3 of 3\).*give it to --from",
           file(content, sends=500), file(content, sends=150), file(content, sends=50))  # fmt: skip
    assert part_path(target).read_bytes() == content[:700]
    server = fetch(content, target, file(content))
    assert server.ranges == ["bytes=700-"]


def test_attempts_without_progress_are_counted(content: bytes, target: Path) -> None:
    plan = [file(content, sends=5000) for _ in range(20)]
    server = fetch(content, target, *plan, progress_bytes=5000)  # 10 attempts or more, each of which brings enough
    assert len(server.requests) > 8
    target.unlink()
    server = refuse(content, target, "attempt 3 of 3", *plan, progress_bytes=5001)
    assert len(server.requests) == 3


@pytest.mark.parametrize("after", [0, 10_000])
def test_stalling(content: bytes, target: Path, after: int) -> None:
    started = time.monotonic()
    server = fetch(content, target, stalling(content, after), file(content, etag=None), timeout_seconds=1, attempts=9)
    assert time.monotonic() - started < 50  # the server would be silent for 60
    assert server.ranges[:2] == [None, f"bytes={after}-" if after else None]


def test_stalling_for_ever(content: bytes, target: Path) -> None:
    message = r"the server fell silent \(attempt 2 of 2\)"
    refuse(content, target, message, stalling(content, 10), timeout_seconds=0.5, attempts=2)
    kept = part_path(target).read_bytes()
    assert kept == content[: len(kept)]
    assert len(kept) <= 20


def test_ranges_ignored(content: bytes, target: Path) -> None:
    server = fetch(content, target, without_ranges(content, sends=20_000), without_ranges(content))
    assert server.ranges == [None, "bytes=20000-"]


def test_length_unknown(content: bytes, target: Path) -> None:
    fetch(content, target, without_length(content))
    target.unlink()
    fetch(content, target, without_length(content[:999]), file(content))


def test_chunks(content: bytes, target: Path) -> None:
    fetch(content, target, chunked(content[:7000], ends=False), chunked(content))


@pytest.mark.parametrize("about", [True, False])
@pytest.mark.parametrize("lie", [-1, +1, +1000])
def test_lying_about_the_length(content: bytes, target: Path, about: bool, lie: int) -> None:
    """Whatever is announced, only the right content comes through."""

    def answer(request: Request) -> None:
        if request.headers.get("Range"):
            request.head(416, Content_Range=f"bytes */{len(content)}", Content_Length=0)
        else:
            request.head(200, Content_Length=len(content) + lie)
            request.wfile.write(content)

    with PlannedServer(answer) as server:
        archive = archive_of(content, server.address, about=about)
        if about and lie > 0:  # the size is not known for sure: the part turns out to be all
            downloader().fetch(archive, target)
            assert target.read_bytes() == content
            return
        message = "its sha256 is" if about else r"it has a file of [\d,]+ bytes, but corpus\.zip has [\d,]+\."
        with pytest.raises(DataError, match=message):
            downloader().fetch(archive, target)
    assert not target.exists()


def test_body_without_end(content: bytes, target: Path) -> None:
    message = r"sends more than the 400 bytes that corpus\.zip can have"
    with PlannedServer(without_length(content + content)) as server, pytest.raises(DataError, match=message):
        downloader(chunk_bytes=100).fetch(archive_of(content, server.address, num_bytes=100, about=True), target)
    assert not target.exists()


@pytest.mark.parametrize("knows_if_range", [True, False])
def test_file_changes_between_attempts(content: bytes, target: Path, knows_if_range: bool) -> None:
    """The pieces of two versions are never put together."""
    old = secrets.token_bytes(len(content))

    def careless(request: Request) -> None:
        del request.headers["If-Range"]
        file(content, etag='"2"')(request)

    second = file(content, etag='"2"') if knows_if_range else careless
    told: list[str] = []
    server = fetch(content, target, file(old, sends=9000), second, tell=told.append)
    assert not any("in one" in message for message in told)  # noticed before the hash was wrong
    assert server.ranges == [None, "bytes=9000-"] + ([] if knows_if_range else [None])


def test_file_changes_without_a_sign(content: bytes, target: Path) -> None:
    """Pieces with a wrong hash together are downloaded once more, in one."""
    old = secrets.token_bytes(len(content))
    told: list[str] = []
    server = fetch(content, target, file(old, etag=None, sends=9000), file(content, etag=None), tell=told.append)
    assert server.ranges == [None, "bytes=9000-", None]
    assert any("downloading it in one" in message for message in told)


def test_part_of_another_file(content: bytes, target: Path) -> None:
    target.parent.mkdir()
    part_path(target).write_bytes(secrets.token_bytes(len(content) + 5))
    server = fetch(content, target, file(content))
    assert server.ranges == [f"bytes={len(content) + 5}-", None]


def test_part_that_is_whole(content: bytes, target: Path) -> None:
    """The process was stopped between the last byte and the renaming."""
    target.parent.mkdir()
    part_path(target).write_bytes(content)
    assert fetch(content, target, status(500)).requests == []


def test_damaged_note(content: bytes, target: Path) -> None:
    target.parent.mkdir()
    part_path(target).write_bytes(content[:100])
    target.with_name("corpus.zip.part.json").write_text("[")
    assert fetch(content, target, file(content)).ranges == ["bytes=100-"]


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects(content: bytes, target: Path, code: int) -> None:
    server = fetch(content, target, status(code, Location="/elsewhere"), file(content, sends=800), file(content))
    assert [path for path, _ in server.requests] == ["/corpus.zip", "/elsewhere", "/corpus.zip"]
    assert server.ranges[-1] == "bytes=800-"


def test_redirected_for_ever(content: bytes, target: Path) -> None:
    refuse(content, target, "would lead to an infinite loop", status(302, Location="/corpus.zip"))


@pytest.mark.parametrize(("code", "asked"), [(404, 1), (403, 1), (410, 1), (500, 3), (503, 3), (429, 3)])
def test_errors_of_the_server(content: bytes, target: Path, code: int, asked: int) -> None:
    server = refuse(content, target, f"http://127.*/corpus.zip: the server answers {code}", status(code))
    assert len(server.requests) == asked
    assert names(target.parent) == []


def test_server_error_that_passes(content: bytes, target: Path) -> None:
    fetch(content, target, status(503), file(content, sends=100), status(500), file(content), attempts=4)


def test_wrong_file(content: bytes, target: Path) -> None:
    wrong = secrets.token_bytes(len(content))
    found = hashlib.sha256(wrong).hexdigest()
    server = refuse(content, target, rf"its sha256 is {found}, not {hashlib.sha256(content).hexdigest()}", file(wrong))
    assert len(server.requests) == 1
    assert names(target.parent) == []  # what is wrong is not resumed
    page = b"\n<html>Please log in".ljust(len(content))
    refuse(content, target, r"\(it starts like a web page: a login or an error\?\)", file(page))


def test_nonsense(content: bytes, target: Path) -> None:
    target.parent.mkdir()
    part_path(target).write_bytes(content[:10])
    refuse(content, target, "answers 206 with Content-Range 'pages 1-2' to a request for byte 10 on",
           status(206, Content_Range="pages 1-2"))  # fmt: skip
    refuse(content, target, "answers 204", status(204))
    refuse(content, target, "BadStatusLine", lambda request: request.wfile.write(b"220 mail ready\r\n"))


def test_nobody_listens(content: bytes, target: Path) -> None:
    with PlannedServer(file(content)) as server:
        pass
    with pytest.raises(DataError, match=r"the connection failed \(ConnectionRefusedError.*attempt 3 of 3"):
        downloader().fetch(archive_of(content, server.address), target)


def test_next_address(content: bytes, target: Path) -> None:
    told: list[str] = []
    with PlannedServer(file(content, sends=3000), status(404)) as first, PlannedServer(file(content)) as second:
        archive = archive_of(content, first.address, second.address)
        downloader(tell=told.append).fetch(archive, target)
    assert target.read_bytes() == content
    assert second.ranges == ["bytes=3000-"]
    assert "If-Range" not in second.requests[0][1]  # it may identify its versions in another way
    assert f"{first.address}: the server answers 404 Not Found" in told


def test_there_already(content: bytes, target: Path) -> None:
    fetch(content, target, file(content))
    downloader().fetch(archive_of(content), target)  # no address at all
    assert names(target.parent) == ["corpus.zip"]
    target.write_bytes(b"mine")
    with pytest.raises(
        DataError,
        match=r"corpus\.zip is not the file it should be: its sha256 is .*; move it away to download it again",
    ):
        downloader().fetch(archive_of(content), target)
    assert target.read_bytes() == b"mine"


def test_progress(content: bytes, target: Path) -> None:
    target.parent.mkdir()
    part_path(target).write_bytes(content[:100])
    stages: list[tuple[str, int | None, list[int]]] = []

    class Stage:
        def __init__(self, title: str, num_bytes: int | None) -> None:
            stages.append((title, num_bytes, []))

        def __enter__(self) -> Any:
            return stages[-1][2].append

        def __exit__(self, *error: object) -> None:
            pass

    with PlannedServer(file(content, sends=900), without_ranges(content)) as server:
        downloader().fetch(archive_of(content, server.address), target, Stage)  # type: ignore[arg-type]
    assert [(title, total, sum(done)) for title, total, done in stages] == [
        ("Downloading corpus.zip", len(content), len(content)),
        ("Verifying corpus.zip", len(content), len(content)),
    ]
    assert stages[0][2][0] == 100
