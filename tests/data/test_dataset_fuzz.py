"""Damaged datasets: each either opens and reads tokens within its file, or raises DataError. Nothing else, ever."""

import gzip
import resource
import secrets
import signal
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from types import FrameType

import numpy as np
import pytest

from megachar.base.errors import DataError
from megachar.data.documents import DocumentSampler
from megachar.data.indexed_dataset import IndexedDataset
from megachar.data.sampler import WindowSampler, window_numbers
from tests.corpora.corpora_by_hand import random_documents, write_dataset
from tests.data.reading import read_windows

NUM_VARIANTS = 3000
EXTREMES = [
    0,
    1,
    2,
    127,
    128,
    255,
    2**15,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
]
CONTEXT, WINDOW = 12, 14

Files = dict[str, bytes]


@pytest.fixture
def rng() -> np.random.Generator:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    return np.random.default_rng(seed)


@pytest.fixture
def no_hang() -> Iterator[None]:
    """An error after 50 seconds of what takes about 5."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("a damaged dataset took too long")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(50)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def sound_datasets(folder: Path, rng: np.random.Generator) -> list[Files]:
    """Datasets of every kind of token and of several shapes, as the bytes of their two files."""
    found = []
    for dtype in ("uint8", "uint16", "int32"):
        for lengths in ([int(rng.integers(20, 300))], [*rng.integers(1, 80, size=12).tolist(), 40]):
            write_dataset(folder / "d", random_documents(rng, lengths), dtype, longest=int(rng.integers(5, 50)))
            found.append({suffix: (folder / f"d.{suffix}").read_bytes() for suffix in ("bin", "idx")})
    return found


def truncated(files: Files, rng: np.random.Generator) -> None:
    part = str(rng.choice(["bin", "idx"]))
    files[part] = files[part][: rng.integers(0, max(1, len(files[part])))]


def lengthened(files: Files, rng: np.random.Generator) -> None:
    part = str(rng.choice(["bin", "idx"]))
    files[part] += rng.bytes(int(rng.choice([1, 2, 4, 8, 12, 20, 4096])))


def emptied(files: Files, rng: np.random.Generator) -> None:
    files[str(rng.choice(["bin", "idx"]))] = b""


def flipped(files: Files, rng: np.random.Generator) -> None:
    """One to eight bits, more often in the index, and there often in its header."""
    part = str(rng.choice(["bin", "idx", "idx", "idx"]))
    data = np.frombuffer(files[part] or b"\0", dtype=np.uint8).copy()
    last = min(34, data.size) if part == "idx" and rng.random() < 0.4 else data.size
    for _ in range(int(rng.choice([1, 1, 1, 2, 8]))):
        data[rng.integers(0, last)] ^= 1 << rng.integers(0, 8)
    files[part] = data.tobytes()


def extreme_field(files: Files, rng: np.random.Generator) -> None:
    """A number of the header or the tables becomes one that invites overflow."""
    data = bytearray(files["idx"].ljust(40, b"\0"))
    size = int(rng.choice([1, 4, 8]))
    at = int(rng.choice([9, 17, 18, 26, int(rng.integers(34, len(data)))]))
    value = int(rng.choice(np.array(EXTREMES, dtype=object))) % 2 ** (8 * size)
    data[at : at + size] = value.to_bytes(size, "little")
    files["idx"] = bytes(data[: len(files["idx"])])


def moved_boundary(files: Files, rng: np.random.Generator) -> None:
    """A document starts in another sequence, or nowhere."""
    if len(files["idx"]) < 34 + 16:
        return
    count = min(int.from_bytes(files["idx"][26:34], "little"), (len(files["idx"]) - 34) // 8)
    boundaries = np.frombuffer(files["idx"][-8 * max(count, 1) :], dtype="<i8").copy()
    boundaries[rng.integers(0, boundaries.size)] = rng.choice([-1, -(2**62), 2**62, int(rng.integers(0, 60))])
    files["idx"] = files["idx"][: -8 * boundaries.size] + boundaries.tobytes()


def shuffled_tables(files: Files, rng: np.random.Generator) -> None:
    """Entries of the index change places: lengths, offsets or boundaries that are those of another sequence."""
    head, tables = files["idx"][:34], files["idx"][34:].ljust(4, b"\0")
    words = np.frombuffer(tables[: len(tables) // 4 * 4], dtype="<i4").copy()
    i, j = rng.integers(0, words.size, size=2)
    words[i], words[j] = words[j], words[i]
    files["idx"] = head + words.tobytes()


def foreign(files: Files, rng: np.random.Generator) -> None:
    """A file of another kind under the name."""
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a", "b")
    numbers = BytesIO()
    np.save(numbers, rng.integers(0, 9, size=30))
    kinds = [
        gzip.compress(b"text"),
        archive.getvalue(),
        numbers.getvalue(),
        b"TNTIDX\x00\x00" + rng.bytes(90),
        b"ARROW1\0\0" * 9,
        b"plain text, nothing else\n" * 4,
        rng.bytes(int(rng.integers(1, 300))),
        files["idx"][:34] + rng.bytes(200),
    ]
    files["idx" if rng.random() < 0.8 else "bin"] = kinds[rng.integers(0, len(kinds))]


def read_everything(prefix: Path, rng: np.random.Generator) -> None:
    """All that training would do with a dataset, with every access checked against the file."""
    dataset = IndexedDataset(prefix)
    tokens = dataset.tokens
    assert tokens.nbytes == prefix.with_name("d.bin").stat().st_size
    assert np.array(tokens).size == dataset.num_tokens  # every page of it is there
    order = str(rng.choice(["random", "epoch"]))
    stream = WindowSampler(len(dataset), WINDOW, CONTEXT, 1, order)  # type: ignore[arg-type]
    starts = stream.window_starts(window_numbers(7, 0, 8, 1))
    if np.issubdtype(dataset.dtype, np.integer):
        read_windows(tokens, starts, CONTEXT, WINDOW - CONTEXT)
    sampler = DocumentSampler(dataset, WINDOW, CONTEXT, 1, order)  # type: ignore[arg-type]
    starts = sampler.window_starts(np.arange(8, dtype=np.uint64))
    assert starts.min() >= 0
    assert starts.max() + WINDOW <= tokens.size
    first, stop = dataset.document_bounds(starts)
    assert np.all((first <= starts) & (starts + WINDOW <= stop) & (stop <= tokens.size))


DAMAGES: list[Callable[[Files, np.random.Generator], None]] = [
    truncated, lengthened, emptied, flipped, flipped, flipped, extreme_field, extreme_field, shuffled_tables, foreign,
    moved_boundary, moved_boundary,
]  # fmt: skip


@pytest.mark.usefixtures("no_hang")
def test_thousands_of_damaged_datasets(tmp_path: Path, rng: np.random.Generator) -> None:
    sound = sound_datasets(tmp_path, rng)
    outcomes: Counter[str] = Counter()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(NUM_VARIANTS):
        files = dict(sound[number % len(sound)])
        damage = DAMAGES[number % len(DAMAGES)]
        for _ in range(int(rng.choice([1, 1, 2]))):
            damage(files, rng)
        for suffix, data in files.items():
            (tmp_path / f"d.{suffix}").unlink(missing_ok=True)  # a file that is written over may be flushed to the disk
            (tmp_path / f"d.{suffix}").write_bytes(data)
        try:
            read_everything(tmp_path / "d", rng)
        except DataError:
            outcomes[f"{damage.__name__} refused"] += 1
        except BaseException:
            print(f"variant {number}, {damage.__name__}: bin {files['bin'].hex()} idx {files['idx'].hex()}")
            raise
        else:
            outcomes[f"{damage.__name__} read"] += 1
    print(outcomes)
    assert outcomes.total() == NUM_VARIANTS
    # What sizes alone tell is always found; a flipped token cannot be, and most flips of the index are.
    assert outcomes["truncated read"] + outcomes["emptied read"] + outcomes["lengthened read"] == 0
    assert outcomes["flipped read"] > NUM_VARIANTS / 100
    assert outcomes["flipped refused"] > NUM_VARIANTS / 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 100_000  # kB


def test_two_datasets_mixed_up(tmp_path: Path, rng: np.random.Generator) -> None:
    """The index of one dataset beside the tokens of another: refused, unless both have the same sizes."""
    sound = sound_datasets(tmp_path, rng)
    for one in sound:
        for other in sound:
            if one is other or len(one["bin"]) == len(other["bin"]):
                continue
            (tmp_path / "d.bin").write_bytes(one["bin"])
            (tmp_path / "d.idx").write_bytes(other["idx"])
            with pytest.raises(DataError, match="do not belong together or one is cut off"):
                IndexedDataset(tmp_path / "d")
