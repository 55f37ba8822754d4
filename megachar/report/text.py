"""Text of anyone's making, as what a page can show: nothing invisible, nothing that reorders what is around it."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from megachar.data.vocabulary import Vocabulary

# Controls, formats (among them all that reorder text), lone surrogates, private, unassigned, line separators.
_UNSHOWN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_WHITESPACE_KINDS = {" ": "space", "\n": "end", "\t": "tab"}


@dataclass(frozen=True)
class Piece:
    """The shortest stretch of tokens that is whole characters; mostly one character."""

    text: str
    """As it is shown."""
    kind: str
    """`plain`, `space`, `end` (of a line), `tab`, `mark` (combines with what is before it), or `stand-in`."""
    name: str
    """Of its first character, with the code point; of a byte that is no UTF-8, its value."""
    first: int
    """Its first token's place."""
    stop: int
    """The place after its last token."""


def pieces(tokens: Sequence[int] | npt.NDArray[Any], vocabulary: Vocabulary) -> list[Piece]:
    """A text (t,) cut where the ends of tokens and of characters meet. Bytes that are no UTF-8 stand for themselves."""
    parts = [vocabulary.decode([token]) for token in tokens]
    text = b"".join(parts).decode("utf-8", "surrogateescape")
    token_ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    character_ends = np.cumsum([num_bytes(character) for character in text], dtype=np.int64)
    ends = np.intersect1d(token_ends, character_ends)  # in bytes
    stops = [0, *np.searchsorted(token_ends, ends, side="right").tolist()]  # after tokens of no bytes, too
    cuts = [0, *(np.searchsorted(character_ends, ends) + 1).tolist()]
    return [
        Piece(safe(text[cut:end]), _kind(text[cut:end]), name_of(text[cut]), first, stop)
        for (cut, end), (first, stop) in zip(pairwise(cuts), pairwise(stops), strict=True)
    ]


def safe(text: str) -> str:
    """`text` with a stand-in for every character that is not seen, or moves what is around it; HTML is not escaped."""
    return "".join(stand_in(character) if is_unshown(character) else character for character in text)


def is_unshown(character: str) -> bool:
    """Whether a page should show a stand-in. Line ends and tabs are laid out as such."""
    return character not in "\n\t" and unicodedata.category(character) in _UNSHOWN_CATEGORIES


def stand_in(character: str) -> str:
    r"""What is shown instead, as on a terminal: \x00 for ASCII and for a byte that is no UTF-8, \u202e for others."""
    code = ord(character)
    if is_raw_byte(character):
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def is_raw_byte(character: str) -> bool:
    """Whether it is Python's stand-in for a byte that is no UTF-8 (PEP 383)."""
    return "\udc80" <= character <= "\udcff"


def num_bytes(character: str) -> int:
    """Of the text that it was decoded from."""
    return 1 if is_raw_byte(character) else len(character.encode("utf-8"))


def name_of(character: str) -> str:
    """Such as `U+0065 LATIN SMALL LETTER E`."""
    if is_raw_byte(character):
        return f"byte 0x{ord(character) - 0xDC00:02x}, no UTF-8"
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()


def _kind(text: str) -> str:
    if any(is_unshown(character) for character in text):
        return "stand-in"
    if unicodedata.category(text[0]).startswith("M"):
        return "mark"
    return _WHITESPACE_KINDS.get(text, "plain")
