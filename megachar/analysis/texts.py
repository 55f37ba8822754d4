"""Symbols of a vocabulary as text: what is shown of them, and which end a word. Imports no torch."""

import unicodedata
from collections.abc import Iterable

from megachar.base.errors import DataError
from megachar.data.vocabulary import Vocabulary
from megachar.generation.decoding import TerminalDecoder

_IN_PICTURES = {" ": "\u2423", "\n": "\u21b5", "\t": "\u21e5"}


def shown(symbol: bytes) -> str:
    r"""One symbol's text, safe for terminals: what is no UTF-8, or would act on one, as \xNN; line ends as \n."""
    decoder = TerminalDecoder()
    text = decoder.feed(symbol) + decoder.finish()
    return text.replace("\n", "\\n").replace("\t", "\\t")


def drawn(symbol: bytes, glyphs: Iterable[int]) -> str:
    """One symbol's text for a picture whose font has `glyphs` (code points); a byte by two hexadecimal digits."""
    try:
        text = symbol.decode()
    except UnicodeDecodeError:
        return "\n".join(symbol.hex())  # below one another, to be no wider than a character
    known = set(glyphs)
    letters = [_IN_PICTURES.get(letter, letter) for letter in text]
    return "".join(x if x.isprintable() and ord(x) in known else "\ufffd" for x in letters)


def word_endings(vocabulary: Vocabulary) -> list[int]:
    """The symbols that end a word: whole characters that are no letter, digit or combining mark.

    So spaces, line ends, punctuation (also the apostrophe and the hyphen) and control characters. A byte that is only a
    part of a character ends none: which character it belongs to is not known yet.
    """
    return [symbol for symbol in range(vocabulary.size) if _ends_word(vocabulary.decode([symbol]))]


def check_characters(vocabulary: Vocabulary, analysis: str) -> None:
    """DataError where a symbol of the vocabulary may be several characters."""
    if vocabulary.name == "sentencepiece":
        raise DataError(
            f"the model's vocabulary is SentencePiece's, whose pieces cut a word in many ways and go past its end, so "
            f"{analysis} is not defined; name a run on bytes or characters"
        )


def _ends_word(symbol: bytes) -> bool:
    try:
        text = symbol.decode()
    except UnicodeDecodeError:
        return False
    return len(text) == 1 and unicodedata.category(text)[0] not in "LNM"
