"""Who may write into a run folder, with locks and on a disk that has none, on one machine and between several."""

import errno
import fcntl
import itertools
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from megachar.base.errors import OwnershipError, PlatformError
from megachar.runs import ownership
from megachar.runs.folder import RunFolder
from megachar.runs.ownership import OWNER_VARIABLE, Claim, OwnClaim, Owner, claim_run, read_owner
from megachar.watch.rank import machine_name


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture(params=[True, False], ids=["locks", "no locks"])
def locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With and without a disk that has locks."""

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(ownership, "SETTLE_SECONDS", 0.4)
    if not request.param:
        monkeypatch.setattr(fcntl, "flock", none)
    return bool(request.param)


def leave(folder: RunFolder, machine: str, pid: int, started: float) -> Owner:
    """The file of an owner that is not asked whether it lives."""
    owner = Owner(host="node7", machine=machine, pid=pid, started=started, since=0.0, token="0badcafe")
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.owner_file.write_text(owner.model_dump_json())
    return owner


def test_there_is_one_owner(folder: RunFolder, locks: bool) -> None:
    with OwnClaim(folder) as claim:
        claim.check()
        message = (
            rf"run {folder.path} is at work: process {os.getpid()} on \S+, since .* UTC; wait for its end, .*SIGTERM"
        )
        with pytest.raises(OwnershipError, match=message):
            OwnClaim(folder)
        claim.check()
    assert not folder.path.exists()  # where nothing has come into it
    with OwnClaim(folder):
        (folder.path / "metrics.jsonl").touch()
    assert [path.name for path in folder.path.iterdir()] == ["metrics.jsonl"]


def test_of_many_that_start_at_once_one_has_it(folder: RunFolder, locks: bool) -> None:
    barrier, claims, refused = threading.Barrier(6), list[OwnClaim](), list[OwnershipError]()

    def start() -> None:
        barrier.wait()
        try:
            claims.append(OwnClaim(folder))
        except OwnershipError as error:
            refused.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(claims), len(refused)) == (1, 5)
    for claim in claims:
        with claim:
            claim.check()


def test_another_owner_may_have_time_to_end(
    folder: RunFolder, locks: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And as long as it takes nobody else is the owner."""
    monkeypatch.setattr(ownership, "BEAT_SECONDS", 0.05)
    first = OwnClaim(folder)
    with pytest.raises(OwnershipError, match="is at work"):
        OwnClaim(folder, 0.2)
    first.check()
    threading.Timer(0.3, first.__exit__, (None, None, None)).start()
    with OwnClaim(folder, 20) as second:
        second.check()
    assert first.token != second.token
    assert "Waiting 20 s for its end" in capfd.readouterr().err


def test_a_dead_owner_is_followed_at_once(folder: RunFolder, locks: bool) -> None:
    """Its process is gone, or another has its number."""
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    for pid, started in ((ended.pid, time.time()), (os.getpid(), psutil.Process().create_time() - 100)):
        before = leave(folder, machine_name(), pid, started)
        begun = time.monotonic()
        with OwnClaim(folder) as claim:
            claim.check()
            assert read_owner(folder) != before
        assert time.monotonic() - begun < 2


def test_a_living_process_of_this_machine_is_not_followed(folder: RunFolder, locks: bool) -> None:
    owner = leave(folder, machine_name(), os.getppid(), psutil.Process(os.getppid()).create_time())
    with pytest.raises(OwnershipError, match=f"process {os.getppid()} on node7, since 1970"):
        OwnClaim(folder)
    assert read_owner(folder) == owner


@contextmanager
def signs_of_life(folder: RunFolder) -> Iterator[None]:
    """The owner's file gets other times again and again, so that a busy machine does not miss them all."""
    over = threading.Event()

    def give() -> None:
        for second in itertools.count(5):
            os.utime(folder.owner_file, (second, second))
            if over.wait(0.05):
                return

    giver = threading.Thread(target=give)
    giver.start()
    try:
        yield
    finally:
        over.set()
        giver.join()


@pytest.mark.parametrize("lives", [True, False])
def test_another_machine_shows_by_its_sign_of_life(
    folder: RunFolder, locks: bool, lives: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock does not matter. One that is cut off and comes back writes no more."""
    monkeypatch.setattr(ownership, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(ownership, "SILENT_SECONDS", 0.5)
    owner = leave(folder, "node7/boot/pid", os.getpid(), 0.0)
    there = Claim(folder, owner.token)
    there.check()
    if lives:
        with signs_of_life(folder), pytest.raises(OwnershipError, match=f"process {os.getpid()} on node7"):
            OwnClaim(folder)
        there.check()
        return
    with OwnClaim(folder) as here:
        here.check()
        with pytest.raises(OwnershipError, match="is at work"):
            there.check()
    with pytest.raises(OwnershipError, match=r"owner.json is gone, as where another process has taken the run over"):
        there.check()


def test_an_owner_gives_signs_of_life(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "BEAT_SECONDS", 0.02)
    with OwnClaim(folder):
        seen = set[int]()
        until = time.monotonic() + 10
        while len(seen) < 3 and time.monotonic() < until:
            seen.add(folder.owner_file.stat().st_mtime_ns)
        assert len(seen) == 3


def test_ranks_train_under_their_attempt(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of an attempt before may write no more; without a supervisor rank 0 claims the folder itself."""
    with OwnClaim(folder) as supervisor:
        supervisor.hand_down()
        first = claim_run(folder)
        first.check()
        supervisor.hand_down()
        second = claim_run(folder)
        second.check()
        with pytest.raises(OwnershipError):
            first.check()
    assert OWNER_VARIABLE not in os.environ
    with claim_run(folder) as own:
        assert isinstance(own, OwnClaim)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PlatformError, match=r"file/run cannot be written: .*; make it writable"):
        OwnClaim(RunFolder(tmp_path / "file" / "run"))
