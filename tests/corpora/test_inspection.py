"""Counts and entropies of a corpus equal slow ones; its picture, labels and verification."""

import lzma
import math
import os
import secrets
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megachar.base.errors import ConfigError, DataError
from megachar.corpora.histogram import CLASSES, class_of, draw_histogram, label_of
from megachar.corpora.inspection import (
    MAX_SAMPLE,
    Sample,
    conditional_entropies,
    count_symbols,
    figures_of,
    open_split,
    take_sample,
    verify_split,
    xz_size,
)
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.vocabulary import ByteVocabulary
from tests.corpora.corpora_by_hand import write_dataset


@pytest.fixture
def seed() -> int:
    seed = secrets.randbits(32)
    print("seed", seed)  # shown where a test fails
    return seed


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "text").write_bytes(b"All happy families are alike;\n\xc3\xa9\x00\xff" * 300)
    prepare_corpus(cut_by_position(tmp_path / "text"), tmp_path / "corpus", ByteVocabulary())
    return tmp_path / "corpus"


def write_tokens(prefix: Path, tokens: Any, dtype: str) -> Path:
    write_dataset(prefix, [tokens], dtype)
    return prefix


def bits_of(sample: Sample) -> list[float | None]:
    return [None if entropy is None else entropy.bits for entropy in conditional_entropies(sample)]


def slow_entropies(pieces: list[list[int]]) -> list[float]:
    """Order 0, 1, 2 by counting runs of three tokens in dictionaries."""
    runs = Counter(tuple(piece[at : at + 3]) for piece in pieces for at in range(len(piece) - 2))
    total = sum(runs.values())

    def entropy(length: int) -> float:
        counts: Counter[tuple[int, ...]] = Counter()
        for run, count in runs.items():
            counts[run[:length]] += count
        return -sum(count / total * math.log2(count / total) for count in counts.values())

    return [entropy(1), entropy(2) - entropy(1), entropy(3) - entropy(2)]


@pytest.mark.parametrize("symbols", [1, 2, 27, 256, 2000, 50_000])
def test_entropies_equal_a_slow_count(symbols: int, seed: int) -> None:
    """Also where runs need 64 bits, and with pieces that do not run into each other."""
    random = np.random.default_rng(seed)
    weights = random.random(symbols) ** 4
    sizes = random.integers(3, 400, size=3)
    tokens = [random.choice(symbols, size=size, p=weights / weights.sum()) for size in sizes]
    pieces = [piece.tolist() for piece in tokens]
    assert bits_of(tuple(tokens)) == pytest.approx(slow_entropies(pieces), abs=1e-9)
    runs = Counter(tuple(piece[at : at + 3]) for piece in pieces for at in range(len(piece) - 2))
    order_2 = conditional_entropies(tuple(tokens))[2]
    assert order_2 is not None
    assert order_2.seen_once == sum(count == 1 for count in runs.values()) / runs.total()


def test_entropies_that_are_known() -> None:
    constant = np.zeros(100, dtype=np.uint8)
    assert bits_of((constant,)) == pytest.approx([0, 0, 0], abs=1e-12)
    turns = np.tile(np.arange(3), 10_000)
    assert bits_of((turns,)) == pytest.approx([math.log2(3), 0, 0], abs=1e-6)
    random = np.random.default_rng(1)
    coins = random.integers(2, size=200_000).astype(np.uint8)
    assert bits_of((coins,)) == pytest.approx([1, 1, 1], abs=1e-3)
    # The sum, modulo 2, of the two before, but for each sixth: only order 2 can know.
    errors = random.random(coins.size) < 1 / 6
    for at in range(2, coins.size):
        coins[at] = coins[at - 1] ^ coins[at - 2] ^ errors[at]
    known = -(5 / 6 * math.log2(5 / 6) + 1 / 6 * math.log2(1 / 6))
    assert bits_of((coins,)) == pytest.approx([1, 1, known], abs=0.01)


def test_entropies_of_short_and_strange_samples() -> None:
    assert bits_of(take_sample(np.array([7]))) == pytest.approx([0, None, None])
    assert bits_of(take_sample(np.array([7, 8]))) == pytest.approx([0, 0, None])  # the one token that has a successor
    large = np.array([2**31 - 1, 0, 5, 2**31 - 1], dtype=np.int32)
    order_0, order_1, order_2 = bits_of(take_sample(large))
    assert order_0 is not None
    assert order_1 is not None
    assert order_2 is None  # three of them do not fit in 64 bits


def test_sample_is_bounded_and_spread(seed: int) -> None:
    random = np.random.default_rng(seed)
    tokens = np.arange(100_000, dtype=np.int32)
    assert take_sample(tokens, 100_000)[0].tolist() == tokens.tolist()
    limit = int(random.integers(1, 99_999))
    sample = take_sample(tokens, limit, piece_tokens=1000)
    assert limit - 1000 < sum(piece.size for piece in sample) <= limit
    starts = [int(piece[0]) for piece in sample]
    assert all(np.array_equal(piece, tokens[piece[0] : piece[-1] + 1]) for piece in sample)
    assert starts[0] == 0
    if len(starts) > 1:
        assert sample[-1][-1] == 99_999
        assert max(np.diff(starts)) - min(np.diff(starts)) <= 1
    for wrong in (0, -1, MAX_SAMPLE + 1):
        with pytest.raises(ConfigError, match="is out of range: take 1 to 100,000,000"):
            take_sample(tokens, wrong)
    with pytest.raises(DataError, match="holds the negative token -3"):
        take_sample(np.array([1, -3]))


def test_counts(seed: int) -> None:
    random = np.random.default_rng(seed)
    pieces = tuple(random.integers(40, size=random.integers(1, 500)).astype(np.uint16) for _ in range(3))
    counts = count_symbols(pieces, 300)
    assert counts.shape == (300,)
    assert dict(enumerate(counts)) == {token: Counter(np.concatenate(pieces).tolist())[token] for token in range(300)}
    assert count_symbols((np.array([5]),), 2).tolist() == [0, 0, 0, 0, 0, 1]  # beyond the vocabulary


def test_xz_is_that_of_the_library() -> None:
    data = (b"to be or not to be " * 5000) + secrets.token_bytes(400_000)
    done: list[int] = []
    assert xz_size(data, done.append) == len(lzma.compress(data, preset=6))
    assert sum(done) == len(data)


def test_figures(corpus: Path) -> None:
    opened = open_split(corpus)
    figures = figures_of(opened)
    content = (corpus / "train.bin").read_bytes()
    assert (figures.num_sampled, figures.num_bytes) == (len(content), len(content))
    assert figures.counts.tolist() == [content.count(value) for value in range(256)]
    assert figures.xz_bits == 8 * xz_size(content) / len(content)
    part = figures_of(opened, 1000)
    assert (part.num_sampled, int(part.counts.sum())) == (1000, 1000)


def test_opening(corpus: Path, tmp_path: Path) -> None:
    assert open_split(corpus).name == "train"
    opened = open_split(corpus, "test")
    assert (opened.name, opened.title) == ("test", f"{corpus}, test")
    odd = corpus.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    assert open_split(odd).title == rf"{tmp_path}/caf\xe9, train"  # which pictures can show
    odd.rename(corpus)
    with pytest.raises(DataError, match="has no split 'dev'"):
        open_split(corpus, "dev")
    with pytest.raises(DataError, match=r"no corpus at .*nowhere"):
        open_split(tmp_path / "nowhere")


def test_opening_a_dataset_without_a_card(corpus: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "my.data"
    shutil.copy(corpus / "train.bin", tmp_path / "my.data.bin")
    shutil.copy(corpus / "train.idx", tmp_path / "my.data.idx")
    for path in (prefix, tmp_path / "my.data.bin", tmp_path / "my.data.idx"):
        opened = open_split(path)
        assert (opened.title, opened.name, opened.corpus) == (str(prefix), None, None)
        assert opened.text_of(opened.dataset.tokens[:3]) == b"All"
    with pytest.raises(ConfigError, match="is one dataset without splits: leave --split train out"):
        open_split(prefix, "train")
    tokens = write_tokens(tmp_path / "tokens", [1, 70_000, 5], "int32")
    opened = open_split(tokens)
    assert opened.text_of(opened.dataset.tokens) is None
    assert figures_of(opened).counts.size == 70_001
    floats = write_tokens(tmp_path / "floats", [0.5, 1.5], "float32")
    with pytest.raises(DataError, match="holds numbers of type float32, no tokens"):
        open_split(floats)
    (tmp_path / "tokens.idx").unlink()
    with pytest.raises(DataError, match=r"tokens\.idx is missing beside its other half"):
        open_split(tokens)


def test_verify(corpus: Path) -> None:
    opened = open_split(corpus)
    assert opened.corpus is not None
    done: list[int] = []
    for name in opened.corpus.split_names:
        verify_split(opened.corpus, name, done.append)
    assert sum(done) == 300 * 34
    content = bytearray((corpus / "valid.bin").read_bytes())
    content[secrets.randbelow(len(content))] ^= 1 << secrets.randbelow(8)
    (corpus / "valid.bin").write_bytes(content)
    wanted = opened.corpus.card.splits["valid"].sha256
    message = rf"the split 'valid' of .* is damaged: the sha256 of valid\.bin is [0-9a-f]{{64}}, but .* gives {wanted}"
    with pytest.raises(DataError, match=message):
        verify_split(opened.corpus, "valid")
    (corpus / "valid.bin").write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"valid\.bin has \d+ bytes"):  # its size says it at once
        verify_split(open_split(corpus).corpus, "valid")  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "named"), [(1, True), (27, True), (300, False), (600, True), (600, False)])
def test_histogram_is_a_picture(size: int, named: bool, tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    counts = random.integers(0, 1000, size=size) * (random.random(size) < 0.7)
    counts[0] = 1
    symbols = [bytes([token % 256]) * (1 + token // 256) for token in range(size)] if named else None
    title = r"a $\title$ with [brackets] and \n"
    path = draw_histogram(counts.astype(np.int64), symbols, title, tmp_path / "no ending")
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    assert path.stat().st_size > 5000


@pytest.mark.parametrize(
    ("symbol", "label", "kind"),
    [
        (b"a", "a", "letters"), (b"7", "7", "digits"), (b" ", "sp", "whitespace"), (b"\n", r"\n", "whitespace"),
        (b"$", "$", "punctuation"), (b"\x00", "00", "control characters"), (b"\x7f", "7f", "control characters"),
        (b"\xff", "ff", "beyond ASCII"), ("é".encode(), "é", "beyond ASCII"), (b"", "", "beyond ASCII"),
        ("\u200f".encode(), "e2808f", "beyond ASCII"), (b"in the", "in␣the", "letters"),
    ],
)  # fmt: skip
def test_labels(symbol: bytes, label: str, kind: str) -> None:
    assert label_of(0, [symbol]) == label
    assert CLASSES[class_of(symbol)] == kind


def test_labels_of_unknown_tokens() -> None:
    assert label_of(77, None) == "77"
