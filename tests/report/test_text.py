"""Text in a report is shown whole, unseen characters made visible, pieces cut between characters."""

import secrets
import unicodedata

import numpy as np
import pytest

from megachar.data.characters import CharacterVocabulary
from megachar.data.vocabulary import ByteVocabulary
from megachar.report.text import Piece, is_unshown, name_of, pieces, safe
from tests.report.runs import HOSTILE_TEXT


def expected(data: bytes) -> str:
    """What is shown of a text, character by character."""
    shown = []
    for character in data.decode("utf-8", "surrogateescape"):
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:
            shown.append(f"\\x{code & 0xFF:02x}")
        elif character in "\n\t" or character.isprintable() or unicodedata.category(character) == "Zs":
            shown.append(character)
        elif code < 128:
            shown.append(f"\\x{code:02x}")
        else:
            shown.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return "".join(shown)


def as_shown(data: bytes) -> str:
    return "".join(piece.text for piece in pieces(list(data), ByteVocabulary()))


def test_every_text_is_shown_whole() -> None:
    for data in (b"", HOSTILE_TEXT, secrets.token_bytes(3000), bytes(range(256)), "日本\n".encode()[1:]):
        found = pieces(list(data), ByteVocabulary())
        assert "".join(piece.text for piece in found) == expected(data)
        assert [piece.first for piece in found] == [0, *(piece.stop for piece in found)][:-1][: len(found)]
        assert not found or found[-1].stop == len(data)


def test_nothing_unseen_is_left() -> None:
    everything = "".join(chr(code) for code in range(0x110000))
    shown = set(safe(everything))
    assert all(unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp") or character in "\n\t"
               for character in shown)  # fmt: skip
    assert {"a", "é", "漢", "😀", "\u00a0", "\n", "\t", "ש"} <= shown
    assert not {"\u202e", "\u2066", "\u061c", "\u200b", "\x00", "\r", "\x85", "\ud800"} & shown


def test_pieces_are_whole_characters() -> None:
    assert pieces(list("aé\n \t\u0301\x00".encode() + b"\xff"), ByteVocabulary()) == [
        Piece("a", "plain", "U+0061 LATIN SMALL LETTER A", 0, 1),
        Piece("é", "plain", "U+00E9 LATIN SMALL LETTER E WITH ACUTE", 1, 3),
        Piece("\n", "end", "U+000A", 3, 4),
        Piece(" ", "space", "U+0020 SPACE", 4, 5),
        Piece("\t", "tab", "U+0009", 5, 6),
        Piece("\u0301", "mark", "U+0301 COMBINING ACUTE ACCENT", 6, 8),
        Piece("\\x00", "stand-in", "U+0000", 8, 9),
        Piece("\\xff", "stand-in", "byte 0xff, no UTF-8", 9, 10),
    ]


def test_tokens_of_several_characters_and_of_parts_of_one() -> None:
    class Words:
        """Tokens 0 to 3 of several characters, of parts of one, and of none."""

        texts = (b"ab", b"\xe2\x82", b"\xacc", b"")

        def decode(self, tokens: list[int]) -> bytes:
            return b"".join(self.texts[token] for token in tokens)

    found = pieces([0, 3, 1, 3, 2, 0, 3], Words())  # type: ignore[arg-type]
    assert [(piece.text, piece.first, piece.stop) for piece in found] == [("ab", 0, 2), ("€c", 2, 5), ("ab", 5, 7)]


def test_characters_written_as_bytes() -> None:
    vocabulary = CharacterVocabulary("aé", bytes_for_others=True)
    found = pieces(vocabulary.encode("aé€a".encode()), vocabulary)
    assert [(piece.text, piece.first, piece.stop) for piece in found] == [
        ("a", 0, 1), ("é", 1, 2), ("€", 2, 5), ("a", 5, 6),
    ]  # fmt: skip


@pytest.mark.parametrize("array", [np.zeros(0, np.uint8), []])
def test_no_text(array: object) -> None:
    assert pieces(array, ByteVocabulary()) == []  # type: ignore[arg-type]


def test_names() -> None:
    assert name_of("\u202e") == "U+202E RIGHT-TO-LEFT OVERRIDE"
    assert name_of("\udcfe") == "byte 0xfe, no UTF-8"
    assert is_unshown("\u2028")
