"""What goes wrong in the middle: whatever it is, no half corpus, the old one untouched, and nobody left at work."""

import contextlib
import json
import os
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from megachar.base.errors import DataError
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.vocabulary import ByteVocabulary
from tests.corpora.preprocessing_by_hand import tree

ROOT = Path(__file__).parents[2]
TOOL = str(ROOT / "tools" / "preprocess_data.py")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "OMPI_MCA_mpi_yield_when_idle": "1"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a text and an old corpus of another one."""
    (tmp_path / "old").write_bytes(b"old text " * 100)
    prepare_corpus(cut_by_position(tmp_path / "old"), tmp_path / "corpus", ByteVocabulary())
    (tmp_path / "text").write_bytes(b"new text\n" * 5000)
    return tmp_path


@contextlib.contextmanager
def started(
    *command: object, program: Sequence[str] = (sys.executable,), environment: Mapping[str, str] = ENVIRONMENT
) -> Iterator[subprocess.Popen[str]]:
    """A command as the first of a process group of its own, which does not outlive the block."""
    process = subprocess.Popen(
        [*program, *map(str, command)], cwd=ROOT, env=environment, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def group(number: int) -> list[int]:
    """The processes of a group that are still alive."""
    alive = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, pgrp = path.read_text().rpartition(")")[2].split()[:3]
            if int(pgrp) == number and state != "Z":
                alive.append(int(path.parent.name))
    return alive


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def workers_of(process: "subprocess.Popen[str]") -> list[int]:
    found = []
    for pid in group(process.pid):
        with contextlib.suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes() and pid != process.pid:
                found.append(pid)
    return found


def has_parts(place: Path) -> bool:
    return any(place.glob(".corpus.new.*/part-*.tokens"))


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


@needs_proc
@pytest.mark.parametrize("what", ["kill a worker", "kill all workers", "interrupt", "terminate"])
def test_many_processes_that_end_too_early(place: Path, what: str) -> None:
    before = tree(place)
    with started("tests/corpora/slow_preparation.py", place / "text", place / "corpus", 2) as process:
        wait_for(lambda: has_parts(place))
        if what == "interrupt":
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        elif what == "terminate":
            process.terminate()
        else:
            for pid in workers_of(process)[: 1 if what == "kill a worker" else 2]:
                with contextlib.suppress(ProcessLookupError):  # it may end as the other one does
                    os.kill(pid, signal.SIGKILL)
        _, errors = process.communicate(timeout=20)
        wait_for(lambda: not group(process.pid), 5)
    if what == "terminate":
        assert process.returncode == 128 + signal.SIGTERM
    elif what == "interrupt":
        assert errors.rstrip().endswith("KeyboardInterrupt")
    else:
        assert process.returncode == 2
        assert errors == (
            "error: a worker process died (killed, or out of memory?): nothing was written; start again, with fewer "
            "--workers if memory ran out\n"
        )
    assert tree(place) == before


@needs_proc
def test_killed_parent_leaves_no_workers(place: Path) -> None:
    before = tree(place / "corpus")
    with started("tests/corpora/slow_preparation.py", place / "text", place / "corpus", 2) as process:
        wait_for(lambda: has_parts(place))
        assert workers_of(process)
        process.kill()
        process.wait()
        wait_for(lambda: not group(process.pid), 10)
    assert tree(place / "corpus") == before


@needs_proc
@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_interrupt_while_workers_start(place: Path, seconds: float) -> None:
    before = tree(place)
    options = ("--documents", "line", "--workers", 2, "--output", place / "corpus", "--overwrite")
    with started(TOOL, place / "text", *options) as process:
        wait_for(lambda: workers_of(process))
        time.sleep(seconds)  # until they import what they need
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=20)
        wait_for(lambda: not group(process.pid), 5)
    assert (process.returncode, output, errors) == (130, "", "interrupted: nothing was written\n")
    assert tree(place) == before


def test_error_in_a_worker(place: Path) -> None:
    lines = [json.dumps({"text": f"record {number}"}) for number in range(3000)]
    lines[2500] = '{"txet": "a"}'
    (place / "text").write_text("\n".join(lines))
    before = tree(place)
    with pytest.raises(
        DataError, match=r"text, line 2,501: no key 'text'; its keys are: txet; mend the line, .*--skip"
    ):
        prepare_corpus(
            cut_by_position(place / "text"), place / "corpus", ByteVocabulary(), documents="record", overwrite=True,
            num_workers=2, unit_bytes=5000,
        )  # fmt: skip
    assert tree(place) == before


NO_ROOM = r"no room for the corpus on the disk of .*: nothing was changed there; free some space"


@pytest.mark.parametrize("documents", ["file", "line"])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_file_that_may_not_grow(place: Path, documents: str, num_workers: int) -> None:
    """A limit on the size of files fails in writing as a full disk does."""
    (place / "text").write_bytes(b"new text\n" * 20_000)
    before = tree(place)
    limit, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(DataError, match=NO_ROOM):
            prepare_corpus(
                cut_by_position(place / "text"), place / "corpus", ByteVocabulary(), documents=documents,  # type: ignore[arg-type]
                overwrite=True, num_workers=num_workers, unit_bytes=50_000, chunk_bytes=3000,
            )  # fmt: skip
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    assert tree(place) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("documents", ["file", "line"])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_full_disk(small_disk: Path, place: Path, documents: str, num_workers: int) -> None:
    (place / "text").write_bytes(b"new text\n" * 200_000)
    shutil.copytree(place / "corpus", small_disk / "corpus")
    before = tree(small_disk)
    with pytest.raises(DataError, match=NO_ROOM):
        prepare_corpus(
            cut_by_position(place / "text"), small_disk / "corpus", ByteVocabulary(), documents=documents,  # type: ignore[arg-type]
            overwrite=True, num_workers=num_workers, unit_bytes=200_000, chunk_bytes=50_000,
        )  # fmt: skip
    assert tree(small_disk) == before


def mpirun(ranks: int, *arguments: object) -> list[str]:
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    if shutil.which("mpirun") is None:
        pytest.skip("there is no mpirun")
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    return ["mpirun", *root, "--oversubscribe", "-n", str(ranks), sys.executable, *map(str, arguments)]


def test_any_number_of_ranks_writes_the_same_bytes(place: Path) -> None:
    (place / "lines").write_text("\n".join(json.dumps({"text": f"record é {number}"}) for number in range(3000)))
    arguments = (TOOL, place / "lines", place / "text", "--documents", "line")
    for ranks in (1, 3):
        command = mpirun(ranks, *arguments, "--output", place / f"out-{ranks}", *(["--mpi"] if ranks > 1 else []))
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=ENVIRONMENT, check=False)
        assert done.returncode == 0, done.stderr
    alone = tree(place / "out-1")
    assert len(alone) == 7
    assert tree(place / "out-3") == alone


def test_error_in_a_rank(place: Path) -> None:
    before = tree(place)
    command = mpirun(
        3, TOOL, place / "text", "--output", place / "corpus", "--overwrite", "--mpi", "--json-key", "text"
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=ENVIRONMENT, check=False)
    assert done.returncode == 2
    assert done.stderr.count("line 1: not JSON") == 1, done.stderr
    assert tree(place) == before


@needs_proc
def test_killed_rank(place: Path) -> None:
    """mpirun ends the others, and the first rank tidies up before."""
    before = tree(place)
    command = mpirun(3, "tests/corpora/slow_preparation.py", place / "text", place / "corpus", "mpi")
    # On a busy machine the second that mpirun gives may be too short.
    environment = {**ENVIRONMENT, "OMPI_MCA_odls_base_sigkill_timeout": "3"}
    with started(*command, program=(), environment=environment) as process:
        wait_for(lambda: has_parts(place))
        ranks = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                arguments = path.read_bytes().split(b"\0")
                if str(place / "text").encode() in arguments and b"mpirun" not in arguments[0]:
                    ranks.append(int(path.parent.name))
        assert len(ranks) == 3
        os.kill(sorted(ranks)[secrets.choice((1, 2))], signal.SIGKILL)  # the first writes
        _, errors = process.communicate(timeout=30)
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ranks), 5)
    assert process.returncode == 128 + signal.SIGKILL
    assert "exited on signal 9" in errors
    assert tree(place) == before


def test_mpi_needs_ranks(place: Path) -> None:
    command = mpirun(1, TOOL, place / "text", "--output", place / "new", "--mpi")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=ENVIRONMENT, check=False)
    assert "--mpi with a single rank: start it with mpirun -n 2 or more" in done.stderr
