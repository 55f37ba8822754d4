"""Several corpora read together: every prefix has its shares, every corpus is read as it would be alone."""

import secrets
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from megachar.base.errors import ConfigError, DataError
from megachar.config.sections.data import BlendPart, DataConfig
from megachar.data.blend import Blend, BlendPattern
from megachar.data.corpus import Corpus
from megachar.data.reader import training_reader, validation_reader
from megachar.data.sampler import WindowSampler, make_key
from tests.corpora.corpora_by_hand import random_documents, write_corpus
from tests.draws import fresh_seed


@pytest.fixture
def rng() -> np.random.Generator:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def windows(first: int, count: int) -> np.ndarray:
    return np.uint64(first) + np.arange(count, dtype=np.uint64)


def check_every_prefix(weights: list[Fraction]) -> None:
    """Exhaustively, over two periods: shares, counts and numbers."""
    pattern = BlendPattern(weights)
    shares = [weight / sum(weights) for weight in weights]
    assert pattern.shares == tuple(shares)
    length = 2 * pattern.period
    corpora, numbers = pattern(windows(0, length))
    # n_i(w) - w a_i / D times D, in whole numbers: strictly between -D and D.
    counts = np.cumsum(corpora[:, None] == np.arange(len(weights)), axis=0)  # (w, k), after w + 1 windows
    wanted = np.arange(1, length + 1)[:, None] * [int(share * pattern.period) for share in shares]
    assert np.abs(counts * pattern.period - wanted).max() < pattern.period, weights
    np.testing.assert_array_equal(numbers, counts[np.arange(length), corpora] - 1)
    for w in (0, 1, length // 3, length):
        assert pattern.counts(w).tolist() == ([0] * len(weights) if w == 0 else counts[w - 1].tolist())


@pytest.mark.parametrize("num_corpora", [1, 2, 3, 4, 5, 8, 13])
def test_every_prefix_has_its_shares(num_corpora: int, rng: np.random.Generator) -> None:
    for _ in range(12):
        check_every_prefix([Fraction(int(rng.integers(1, 60))) for _ in range(num_corpora)])


@pytest.mark.parametrize(
    "weights",
    ["1 1", "7 3", "0.7 0.2 0.1", "0.1 0.9", "1e-3 1", "998 1 1", "1.5 2.25 7", "2 2 2 2 2 2 2 1", "500 1 2 3 5 8 13",
     "86 1 1 1 1 1 1 1 1 1 1 1 1 1 1", "33 33 33 1", "0.333 0.667"],
)  # fmt: skip
def test_every_prefix_of_awkward_weights(weights: str) -> None:
    check_every_prefix([Fraction(weight) for weight in weights.split()])


def test_far_out_and_in_any_cut(rng: np.random.Generator) -> None:
    """Window numbers of a run of any length; the pattern of a batch does not depend on the batch."""
    pattern = BlendPattern([Fraction(5), Fraction(2), Fraction(4)])
    first = 11 * int(rng.integers(10**15, 10**17))
    corpora, numbers = pattern(windows(first, 44))
    near, near_numbers = pattern(windows(0, 44))
    np.testing.assert_array_equal(corpora, near)
    before = np.array(pattern.counts(first)).astype(np.uint64)
    np.testing.assert_array_equal(numbers, near_numbers + before[corpora])
    single = [pattern(windows(first + place, 1)) for place in range(44)]
    assert [int(c[0]) for c, _ in single] == corpora.tolist()
    assert [int(n[0]) for _, n in single] == numbers.tolist()


def test_weights_without_a_short_period() -> None:
    message = r"weights 90000000, 6877823 of data\.blend mix exactly only over 96,877,823 windows, .* such as 929, 71$"
    with pytest.raises(ConfigError, match=message):
        BlendPattern([Fraction(90_000_000), Fraction(6_877_823)])


def open_blend(*parts: tuple[Path, float], **settings: str) -> tuple[Blend, DataConfig]:
    config = DataConfig(blend=tuple(BlendPart(path=str(path), weight=weight) for path, weight in parts), **settings)
    return Blend.open(config), config


@pytest.mark.parametrize("order", ["random", "epoch"])
def test_every_corpus_has_a_sampler_of_its_own(tmp_path: Path, rng: np.random.Generator, order: str) -> None:
    texts = [random_documents(rng, [size])[0] for size in (500, 300, 901)]
    for number, text in enumerate(texts):
        write_corpus(tmp_path / str(number), {"train": [text]})
    parts = [(tmp_path / str(number), weight) for number, weight in enumerate((0.5, 0.2, 0.3))]
    blend, config = open_blend(*parts, order=order)
    seed, context = int(rng.integers(0, 2**62)), 10
    inputs, targets = training_reader(blend, config, context, context + 2, seed).read(windows(990, 60))
    assert inputs.shape == (60, 10)
    assert targets.shape == (60, 10, 2)
    samplers = [WindowSampler(t.size, 12, 10, make_key(seed, n) if n else seed, order) for n, t in enumerate(texts)]  # type: ignore[arg-type]
    corpora, numbers = blend.pattern(windows(990, 60))
    assert np.bincount(corpora).tolist() == [30, 12, 18]
    for place in range(60):
        text, number = texts[corpora[place]], numbers[place : place + 1]
        start = int(samplers[corpora[place]].window_starts(number)[0])
        assert inputs[place].tolist() == text[start : start + 10].tolist()
        assert targets[place, :, 1].tolist() == text[start + 2 : start + 12].tolist()


@pytest.mark.parametrize("order", ["random", "epoch"])
def test_windows_in_any_order_and_batch(tmp_path: Path, rng: np.random.Generator, order: str) -> None:
    """The reader places windows in blocks; what it says of one must not depend on those asked for before or with it."""
    write_corpus(tmp_path / "a", {"train": random_documents(rng, [700])})
    config = DataConfig(path=str(tmp_path / "a"), order=order)  # type: ignore[arg-type]
    reader = training_reader(Blend.open(config), config, 10, 12, 5)
    sampler = WindowSampler(700, 12, 10, 5, order)  # type: ignore[arg-type]
    for numbers in (windows(1000, 50), windows(0, 3), rng.integers(0, 5000, 40).astype(np.uint64), windows(2**50, 9)):
        np.testing.assert_array_equal(reader.locate(numbers)[1], sampler.window_starts(numbers))


def test_epochs_of_every_corpus_are_whole(tmp_path: Path) -> None:
    """However corpora take turns, each one's own windows are visited once in its own epoch."""
    sizes = {"a": 400, "b": 90}
    for name, size in sizes.items():
        write_corpus(tmp_path / name, {"train": [np.arange(size) % 256]})
    blend, config = open_blend((tmp_path / "a", 3), (tmp_path / "b", 2), order="epoch")
    reader = training_reader(blend, config, 8, 10, fresh_seed(60))
    corpora, starts = reader.locate(windows(0, 500))
    own = [starts[corpora == corpus] for corpus in (0, 1)]
    for number, size in enumerate(sizes.values()):
        per_epoch = WindowSampler(size, 10, 8, 0, "epoch").windows_per_epoch
        for first in range(0, own[number].size - per_epoch, per_epoch):
            epoch = np.sort(own[number][first : first + per_epoch])
            assert np.unique(np.diff(epoch)).tolist() == [8]


def test_a_blend_of_one_is_a_path(tmp_path: Path) -> None:
    write_corpus(tmp_path / "a", {"train": [np.arange(500) % 256], "valid": [np.arange(60)]})
    blend, config = open_blend((tmp_path / "a", 0.3), order="epoch")
    path = DataConfig(path=str(tmp_path / "a"), order="epoch")
    for make, last in ((training_reader, fresh_seed(60)), (validation_reader, 20)):
        one, other = make(blend, config, 16, 18, last), make(Blend.open(path), path, 16, 18, last)
        np.testing.assert_array_equal(one.read(windows(0, 20))[1], other.read(windows(0, 20))[1])


def test_validation_is_shared_out_by_weight(tmp_path: Path) -> None:
    for name, symbol in (("a", 1), ("b", 2)):
        write_corpus(tmp_path / name, {"train": [[0] * 50], "valid": [[symbol] * 200]})
    blend, config = open_blend((tmp_path / "a", 3), (tmp_path / "b", 1))
    inputs, _ = validation_reader(blend, config, 8, 10, 16).read(windows(0, 16))
    assert np.bincount(inputs[:, 0]).tolist() == [0, 12, 4]
    corpora, starts = validation_reader(blend, config, 8, 10, 16).locate(windows(0, 16))
    assert starts[corpora == 0].tolist()[::11] == [0, 190]  # from the first token to the last
    assert starts[corpora == 1].tolist() == [0, 63, 126, 190]
    validation_reader(blend, config, 8, 10, 1)  # a corpus whose share rounds to no window


def test_different_vocabularies(tmp_path: Path) -> None:
    one, other = (write_corpus(tmp_path / name, {"train": [[1, 2, 3]]}) for name in "ab")
    symbols = other.card.vocabulary.model_copy(update={"name": "letters", "size": 27})
    other.card = other.card.model_copy(update={"vocabulary": symbols})
    blend = Blend([one, other], BlendPattern([Fraction(1), Fraction(1)]))
    with pytest.raises(ConfigError, match=r"different vocabularies: .*/a has 'bytes' \(256.*, .*/b has 'letters' \(27"):
        blend._check_alike()


def test_a_valid_split_in_one_of_two(tmp_path: Path) -> None:
    write_corpus(tmp_path / "a", {"train": [[1, 2, 3]], "valid": [[1, 2, 3]]})
    write_corpus(tmp_path / "b", {"train": [[1, 2, 3]]})
    with pytest.raises(
        DataError, match=r"on all of its corpora or on none: .*/a has a valid split, .*/b has none; prep"
    ):
        open_blend((tmp_path / "b", 1), (tmp_path / "a", 1))


def test_a_corpus_shorter_than_a_window(tmp_path: Path) -> None:
    write_corpus(tmp_path / "a", {"train": [[1] * 50], "valid": [[1] * 50]})
    write_corpus(tmp_path / "b", {"train": [[1] * 50], "valid": [[1] * 9]})
    blend, config = open_blend((tmp_path / "a", 1), (tmp_path / "b", 1))
    training_reader(blend, config, 8, 10, 0)
    with pytest.raises(DataError, match=r"valid split of .*/b: the split has 9 tokens, but one window needs 10 "):
        validation_reader(blend, config, 8, 10, 4)


def test_what_is_said_of_a_blend(tmp_path: Path) -> None:
    for name in "ab":
        write_corpus(tmp_path / name, {"train": [[1] * 50], "test": [[1]]} if name == "a" else {"train": [[1] * 50]})
    blend, _ = open_blend((tmp_path / "a", 2), (tmp_path / "b", 1))
    assert blend.description == f"0.6667 {tmp_path}/a + 0.3333 {tmp_path}/b"
    assert blend.split_names == ("train",)
    with pytest.raises(ConfigError, match=r"data\.path is not set; .*or several in data\.blend"):
        Blend.open(DataConfig())


def test_fingerprints(tmp_path: Path) -> None:
    for number, name in enumerate("abc"):
        write_corpus(tmp_path / name, {"train": [[number] * (50 + number)]})
    parts = [(tmp_path / name, 2.0) for name in "abc"]
    found = [
        open_blend(*chosen)[0].fingerprint
        for chosen in (parts, parts[::-1], parts[:2], [parts[0], (tmp_path / "b", 3)], parts[:1])
    ]
    assert len(set(found)) == 5
    assert open_blend(*((path, 5.0) for path, _ in parts))[0].fingerprint == found[0]  # the same shares
    assert found[-1] == Corpus.open(tmp_path / "a").fingerprint


def test_a_token_outside_the_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corpus(tmp_path / "a", {"train": [[1] * 100]})
    write_corpus(tmp_path / "b", {"train": [[1] * 41 + [200] + [1] * 58]})
    blend, config = open_blend((tmp_path / "a", 1), (tmp_path / "b", 1), order="epoch")
    monkeypatch.setattr(type(blend.vocabulary), "size", 128)
    reader = training_reader(blend, config, 8, 10, 0)
    message = (
        r"/b: token 200 at position 41 of the split 'train' is outside the vocabulary of 128 tokens: the data are dam"
    )
    with pytest.raises(DataError, match=message):
        reader.read(windows(0, 24))
