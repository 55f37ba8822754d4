"""How symbols are written in tables and pictures, and which of them end a word."""

import string

import pytest

from megachar.analysis.texts import check_characters, drawn, shown, word_endings
from megachar.base.errors import DataError
from megachar.data.characters import CharacterVocabulary
from megachar.data.pieces import PieceVocabulary
from megachar.data.vocabulary import ByteVocabulary


@pytest.mark.parametrize(
    ("symbol", "text"),
    [(b"a", "a"), (b" ", " "), (b"\n", "\\n"), (b"\x1b", "\\x1b"), (b"\xc3", "\\xc3"), ("ä".encode(), "ä")],
)
def test_shown(symbol: bytes, text: str) -> None:
    assert shown(symbol) == text


@pytest.mark.parametrize(
    ("symbol", "text"),
    [(b"a", "a"), (b" ", "␣"), (b"\n", "↵"), (b"\x1b", "\ufffd"), (b"\xc3", "c\n3"), ("熊".encode(), "\ufffd")],
)
def test_drawn(symbol: bytes, text: str) -> None:
    assert drawn(symbol, map(ord, string.ascii_letters + "␣↵")) == text


def test_bytes_that_end_a_word() -> None:
    """All of ASCII but letters and digits; none above it, for they are parts of characters."""
    letters = (string.ascii_letters + string.digits).encode()
    assert word_endings(ByteVocabulary()) == [value for value in range(128) if value not in letters]


def test_characters_that_end_a_word() -> None:
    vocabulary = CharacterVocabulary("aä1 .—»\u0301", bytes_for_others=True)
    assert [chr(ord(vocabulary.symbols[i])) for i in word_endings(vocabulary) if i < 8] == list(" .—»")
    assert sum(i >= 8 for i in word_endings(vocabulary)) == 128 - 62
    assert word_endings(CharacterVocabulary.text8()) == [0]


def test_pieces_are_refused() -> None:
    check_characters(ByteVocabulary(), "this")
    pieces = PieceVocabulary.train([(b"some text and some more\n" * 20, str)], 280, "bpe")
    with pytest.raises(
        DataError, match=r"SentencePiece's, whose pieces .* so this is not defined; name a run on bytes"
    ):
        check_characters(pieces, "this")
