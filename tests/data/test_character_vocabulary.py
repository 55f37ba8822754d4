"""Characters as tokens: every text comes back, and what cannot be encoded is named with its place."""

import functools
import operator
import pickle
import random
import secrets
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from megachar.base.errors import DataError
from megachar.corpora.encoding import Recipe
from megachar.corpora.learning import learn_vocabulary
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.characters import CharacterVocabulary
from megachar.data.corpus import Corpus
from megachar.data.vocabulary import ByteVocabulary, EncodingError, token_dtype
from tests.corpora.preprocessing_by_hand import random_string
from tests.draws import fresh_random

RECIPE = Recipe(ByteVocabulary())
SIZES = [(2, "uint8"), (256, "uint8"), (257, "uint16"), (65_536, "uint16"), (65_537, "int32")]


@pytest.mark.parametrize(("size", "name"), SIZES)
def test_types_on_disk(size: int, name: str) -> None:
    assert token_dtype(size).name == name


def test_text8() -> None:
    vocabulary = CharacterVocabulary.text8()
    assert (vocabulary.name, vocabulary.size, vocabulary.dtype) == ("text8", 27, np.uint8)
    assert vocabulary.encode(b" abz").tolist() == [0, 1, 2, 26]
    assert vocabulary.decode([0, 1, 2, 26]) == b" abz"
    assert vocabulary.decode([]) == b""
    with pytest.raises(DataError, match="token 27 is outside the vocabulary 'text8' of 27"):
        vocabulary.decode([27])


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        (b"abc\n", 3, r"'\\n' is none of the 27 symbols of the vocabulary 'text8'; clean the text, or choose"),
        ("ab é".encode(), 3, "'é' is none of the 27 symbols"),
        (b"ab\xff", 2, "0xff is not UTF-8 there .* convert the text .* or choose --vocabulary bytes"),
        (b"abc\xe2\x82", 3, "0xe2 is not UTF-8 there"),
    ],
)
def test_foreign_symbols(text: bytes, position: int, message: str) -> None:
    with pytest.raises(EncodingError, match=message) as raised:
        CharacterVocabulary.text8().encode(text)
    assert raised.value.position == position
    copy = pickle.loads(pickle.dumps(raised.value))  # as from a worker
    assert (copy.position, str(copy)) == (position, str(raised.value))


def test_position_after_wider_characters() -> None:
    with pytest.raises(EncodingError) as raised:
        CharacterVocabulary("é€𝄞", bytes_for_others=False).encode("é€𝄞x".encode())
    assert raised.value.position == 9


def test_encoding_and_back() -> None:
    seed = secrets.randbits(32)
    draw = random.Random(seed)
    for _ in range(60):
        symbols = "".join(dict.fromkeys(random_string(draw, 12))) or "a"
        vocabulary = CharacterVocabulary(symbols, bytes_for_others=True)
        texts = [random_string(draw, 30) for _ in range(draw.randrange(1, 6))]
        text = "".join(texts).encode()
        wanted: list[list[int]] = []
        for each in texts:
            tokens = []
            for character in each:
                if character in symbols:
                    tokens.append(symbols.index(character))
                else:
                    tokens += [len(symbols) + byte for byte in character.encode()]
            wanted.append(tokens)
        ends = np.cumsum([len(each.encode()) for each in texts])
        found, found_ends = vocabulary.encode_documents(text, ends)
        assert found.dtype == vocabulary.dtype
        assert found.tolist() == functools.reduce(operator.iadd, wanted, []), f"seed {seed}"
        assert found_ends.tolist() == np.cumsum([len(each) for each in wanted]).tolist(), f"seed {seed}"
        assert vocabulary.decode(found) == text, f"seed {seed}"
        copy = pickle.loads(pickle.dumps(vocabulary))
        assert copy.encode(text).tolist() == found.tolist()


def test_learned_symbols() -> None:
    text = random_string(fresh_random(), 3000)
    counts = Counter(text)
    halves = [(half.encode(), str) for half in (text[:1000], text[1000:])]
    everything = CharacterVocabulary.learn(halves, None)
    assert everything.symbols == "".join(sorted(counts))
    assert everything.size == len(counts) + 256
    few = CharacterVocabulary.learn(halves, 256 + 5)
    best = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))[:5]
    assert few.symbols == "".join(sorted(best))
    exact = CharacterVocabulary.learn(halves, None, bytes_for_others=False)
    assert exact.size == len(counts)


def test_what_cannot_be_learned() -> None:
    with pytest.raises(DataError, match="256 tokens has no room for characters beside the bytes"):
        CharacterVocabulary.learn([(b"a", str)], 256)
    with pytest.raises(DataError, match="no text to learn characters from"):
        CharacterVocabulary.learn([], None)
    with pytest.raises(DataError, match="place 1: 0xff is not UTF-8"):
        CharacterVocabulary.learn([(b"a\xff", lambda position: f"place {position}")], None)
    with pytest.raises(DataError, match="one or more different symbols, not 'aa'"):
        CharacterVocabulary("aa", bytes_for_others=True)
    with pytest.raises(DataError, match="is no character of UTF-8"):
        CharacterVocabulary("\ud800", bytes_for_others=True)


@pytest.mark.parametrize(
    ("size", "bytes_for_others", "symbols", "tokens"),
    [(None, None, " néω", 4), (None, False, " néω", 4), (None, True, " né", 259), (259, None, " né", 259)],
)
def test_corpus_with_learned_characters(
    tmp_path: Path, size: int | None, bytes_for_others: bool | None, symbols: str, tokens: int
) -> None:
    """A set that covers the text is learned from all splits; one with bytes for others from the training text."""
    (tmp_path / "text").write_text("né " * 30 + "ω" * 10)
    sources = cut_by_position(tmp_path / "text", "80,20,0")
    vocabulary = learn_vocabulary(sources, RECIPE, "characters", size, bytes_for_others=bytes_for_others)
    prepare_corpus(sources, tmp_path / "out", vocabulary)
    corpus = Corpus.open(tmp_path / "out")
    assert (corpus.card.vocabulary.symbols, corpus.vocabulary.size) == (symbols, tokens)
    assert corpus.split("train").dtype == token_dtype(tokens)
    texts = [corpus.vocabulary.decode(corpus.split(name).tokens) for name in ("train", "valid")]
    assert b"".join(texts) == (tmp_path / "text").read_bytes()


def test_characters_of_a_size_without_bytes(tmp_path: Path) -> None:
    """The held-out text is not learned from, so its own symbol is foreign."""
    (tmp_path / "text").write_text("né " * 30 + "ω" * 10)
    sources = cut_by_position(tmp_path / "text", "80,20,0")
    vocabulary = learn_vocabulary(sources, RECIPE, "characters", 3, bytes_for_others=False)
    with pytest.raises(DataError, match=r"text, byte 120: 'ω' is none of the 3 symbols .*; clean the text, or choose"):
        prepare_corpus(sources, tmp_path / "out", vocabulary)


def test_bytes_recoded_from_latin1(tmp_path: Path) -> None:
    """As enwik8's: each value of a byte that occurs is one symbol, and nothing else is."""
    draw = fresh_random()
    values = draw.sample(range(256), 205)
    text = bytes([*values, *draw.choices(values, k=2000)])
    (tmp_path / "text").write_bytes(text.decode("latin-1").encode())
    sources = cut_by_position(tmp_path / "text")
    prepare_corpus(sources, tmp_path / "out", learn_vocabulary(sources, RECIPE, "characters", None))
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.vocabulary.size == 205
    ranks = {value: rank for rank, value in enumerate(sorted(values))}
    tokens = np.concatenate([corpus.split(name).tokens for name in corpus.split_names])
    assert tokens.tolist() == [ranks[value] for value in text]


def test_invalid_utf8_is_placed(tmp_path: Path) -> None:
    place = 5000 + secrets.randbelow(5000)
    (tmp_path / "text").write_bytes(b"a" * place + b"\xff" + b"a" * 5000)
    with pytest.raises(DataError, match=rf"text, byte {place:,}: 0xff is not UTF-8 there"):
        prepare_corpus(
            cut_by_position(tmp_path / "text"), tmp_path / "out", CharacterVocabulary.text8(), unit_bytes=3000,
            chunk_bytes=700,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_foreign_symbol_in_a_record_is_placed(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text('{"text": "good"}\n\n{"text": "good"}\n{"text": "n\\u00e9 X"}\n')
    with pytest.raises(DataError, match=r"lines, line 4, byte 1 of its text: 'é' is none"):
        prepare_corpus(
            cut_by_position(tmp_path / "lines", "100,0,0"), tmp_path / "out", CharacterVocabulary.text8(),
            documents="record",
        )  # fmt: skip
