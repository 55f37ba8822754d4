"""Fresh mutations of every kind of file: refused in a sentence or, where nothing was lost, read as before.

    MEGACHAR_FUZZ=500 python -m pytest tests/hostile -s     so many of each kind, and the table of outcomes

Data sets (.idx and .bin) are in tests/data/test_dataset_fuzz.py.
"""

import os
import random
import secrets
import shutil
import signal
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from megachar.base.errors import MegacharError
from tests.hostile.kinds import KINDS, Files, make_files
from tests.hostile.mutations import replaced

NUM_MUTATIONS = int(os.environ.get("MEGACHAR_FUZZ", "20"))
SECONDS = 20


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(tmp_path_factory.mktemp("hostile"))


@pytest.fixture
def no_hang() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("a mutation took too long")

    before = signal.signal(signal.SIGALRM, stop)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def put_back(path: Path, data: bytes) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.write_bytes(data)


def outcome_of(read: Any, files: Files, expected: Any) -> str:
    """In a word; of what is no error of ours, its traceback."""
    signal.alarm(SECONDS)
    try:
        found = read(files)
    except MegacharError as error:
        return _refusal(str(error))
    except BaseException:
        return traceback.format_exc()
    finally:
        signal.alarm(0)
    return "equal" if found == expected else "other"


def _refusal(message: str) -> str:
    """Messages can be printed, and read."""
    try:
        message.encode()
    except UnicodeEncodeError as error:
        return f"{error}: {message!r}"
    return "refused" if 10 < len(message) < 20_000 else f"{len(message)} characters: {message[:500]}"


@pytest.mark.usefixtures("no_hang")
@pytest.mark.parametrize("name", KINDS)
def test_mutations(files: Files, name: str) -> None:
    kind, seed = KINDS[name], secrets.randbits(32)
    print(f"seed {seed}")
    draw, outcomes = random.Random(seed), Counter[str]()
    path = files.path(kind)
    sound = path.read_bytes()
    expected = kind.read(files)
    assert kind.read(files) == expected
    for number in range(max(1, int(NUM_MUTATIONS * kind.share))):
        data, mutation = sound, draw.choice(kind.mutations)
        if draw.random() < 0.05:
            mutation = replaced
            replaced(path, draw)
        else:
            for _ in range(draw.choice([1, 1, 2])):
                data = mutation(data, draw)
            put_back(path, data)
        outcome = outcome_of(kind.read, files, expected)
        if outcome not in ("refused", "equal", "other"):
            print(f"{name}, mutation {number}, {mutation.__name__}:\n{data[:4000]!r}\n{outcome}")
            outcome = "traceback"
        outcomes[outcome] += 1
        if outcome == "other" and kind.sealed:
            print(f"{name}, mutation {number}, {mutation.__name__}: read as another: {data[:4000]!r}")
        put_back(path, sound)
    assert kind.read(files) == expected
    print(f"{name}: {outcomes.total()} mutations: {dict(outcomes)}")
    assert not outcomes["traceback"]
    assert not (kind.sealed and outcomes["other"]), "a checksum or the model should have told"
    assert outcomes["refused"] > 0 or kind.share < 1
