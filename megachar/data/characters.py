"""Character vocabularies: text8's 27 symbols, or a set learned from a corpus, which may write the rest as bytes."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from megachar.base.errors import DataError
from megachar.data.vocabulary import Cut, EncodingError, Int64, Unit, checked_tokens, token_dtype

TEXT8_SYMBOLS = " abcdefghijklmnopqrstuvwxyz"
NUM_CODE_POINTS = 0x110000
NUM_BYTES = 256

PlacedText = tuple[bytes, Callable[[int], str]]
"""A text, and what names the place of its byte of a number in messages."""


class CharacterVocabulary:
    """One token for each of some Unicode characters, its symbols: token = place in `symbols`.

    With `bytes_for_others`, a character outside the symbols is written as its UTF-8 bytes, each a token of its own
    (number of symbols + byte), so that every UTF-8 text can be written; without it such a character is an error.
    """

    cut = Cut.CHARACTERS

    def __init__(self, symbols: str, bytes_for_others: bool, name: str = "characters") -> None:
        """`symbols` must be different characters, none a lone surrogate: UTF-8 has none."""
        if not symbols or len(set(symbols)) != len(symbols):
            raise DataError(f"a character vocabulary needs one or more different symbols, not {symbols[:40]!r}")
        self.name, self.symbols, self.bytes_for_others = name, symbols, bytes_for_others
        self.unit: Unit = "token" if bytes_for_others else "character"
        self.size = len(symbols) + NUM_BYTES * bytes_for_others
        self.dtype = token_dtype(self.size)
        try:
            texts = [symbol.encode() for symbol in symbols]
        except UnicodeEncodeError as error:
            raise DataError(f"the symbol {error.object[error.start]!r} is no character of UTF-8") from None
        self._texts = texts + [bytes([value]) for value in range(NUM_BYTES)] * bytes_for_others
        # One look-up for ASCII, which most text is; the other holds every code point.
        self._tokens = np.full(NUM_CODE_POINTS, -1, dtype=np.int32)
        self._tokens[_code_points(symbols)] = np.arange(len(symbols), dtype=np.int32)

    @classmethod
    def text8(cls) -> "CharacterVocabulary":
        """The space (token 0) and a-z (1 to 26); anything else is an error."""
        return cls(TEXT8_SYMBOLS, bytes_for_others=False, name="text8")

    @classmethod
    def learn(
        cls, texts: Iterable[PlacedText], size: int | None, bytes_for_others: bool = True
    ) -> "CharacterVocabulary":
        """The characters of `texts`, ordered by code point.

        With a `size`, the most frequent ones for which it has room beside the 256 bytes for others, if wanted (of
        equally frequent ones the smaller code points). DataError where there is no text or no room.
        """
        most = None if size is None else size - NUM_BYTES * bytes_for_others
        if most is not None and most < 1:
            raise DataError(f"a vocabulary of {size} tokens has no room for characters beside the bytes: use more")
        counts = np.zeros(NUM_CODE_POINTS, dtype=np.int64)
        for text, place in texts:
            try:
                counts += np.bincount(_code_points(_decoded(text)), minlength=NUM_CODE_POINTS)
            except EncodingError as error:
                raise error.at(place(error.position)) from None
        found = np.flatnonzero(counts)
        if not found.size:
            raise DataError("there is no text to learn characters from: give a longer text")
        if most is not None:
            # A stable sort keeps equally frequent characters in the order of their code points.
            found = np.sort(found[np.argsort(-counts[found], kind="stable")][:most])
        return cls("".join(map(chr, found.tolist())), bytes_for_others)

    def encode(self, text: bytes) -> npt.NDArray[Any]:
        """Tokens (t,) of `text`; EncodingError where it is not UTF-8, or holds a symbol that has no token."""
        return self._encoded(text)[0]

    def encode_documents(self, text: bytes, ends: Int64) -> tuple[npt.NDArray[Any], Int64]:
        """Tokens (t,) of documents one after another, and where each ends in them, (documents,)."""
        tokens, widths = self._encoded(text)
        if not ends.size or tokens.size == len(text):  # as many tokens as bytes: each is one byte
            return tokens, ends
        positions = np.cumsum(widths)  # where each token ends, in bytes
        return tokens, np.searchsorted(positions, ends, side="right").astype(np.int64)

    def _encoded(self, text: bytes) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
        """Tokens (t,), and the bytes of text that each stands for, (t,)."""
        if text.isascii():
            codes = np.frombuffer(text, dtype=np.uint8).astype(np.intp)
        else:
            codes = _code_points(_decoded(text)).astype(np.intp)
        tokens = self._tokens[codes]
        widths = _utf8_widths(codes)
        unknown = np.flatnonzero(tokens < 0)
        if not unknown.size:
            return tokens.astype(self.dtype), widths
        if not self.bytes_for_others:
            place, symbol = int(unknown[0]), chr(int(codes[unknown[0]]))
            raise EncodingError(
                int(widths[:place].sum(dtype=np.int64)),
                f"{symbol!r} is none of the {len(self.symbols)} symbols of the vocabulary '{self.name}'",
                "clean the text, or choose --vocabulary characters or bytes",
            )
        return self._with_bytes(text, tokens, widths, unknown)

    def _with_bytes(
        self, text: bytes, tokens: npt.NDArray[np.int32], widths: npt.NDArray[np.uint8], unknown: npt.NDArray[np.intp]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
        """Replace the tokens at `unknown` by one for each byte of their characters."""
        repeats = np.ones(tokens.size, dtype=np.intp)
        repeats[unknown] = widths[unknown]
        starts = np.cumsum(widths, dtype=np.int64) - widths  # of each character, in bytes
        spread = np.repeat(tokens, repeats)
        firsts = np.cumsum(repeats) - repeats  # of each character, in tokens
        # Inside a character written as bytes, token i of it is byte i of it.
        inside = np.arange(spread.size) - np.repeat(firsts, repeats)
        at = np.flatnonzero(spread < 0)
        values = np.frombuffer(text, dtype=np.uint8)[np.repeat(starts, repeats)[at] + inside[at]]
        spread[at] = values.astype(np.int32) + len(self.symbols)
        out = np.repeat(widths, repeats)
        out[at] = 1
        return spread.astype(self.dtype), out

    def decode(self, tokens: Sequence[int] | npt.NDArray[Any]) -> bytes:
        """The text of `tokens` (t,); DataError on one outside the vocabulary."""
        texts = self._texts
        return b"".join([texts[token] for token in checked_tokens(tokens, self.name, self.size).tolist()])

    def card(self) -> dict[str, Any]:
        """The name, the size, and the symbols in the order of their tokens."""
        known = {"name": self.name, "size": self.size}
        return known if self.name == "text8" else {**known, "symbols": self.symbols}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its symbols: the look-up tables are larger and quickly made."""
        return type(self), (self.symbols, self.bytes_for_others, self.name)

    def files(self) -> dict[str, bytes]:
        """None: the symbols are in the card."""
        return {}


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise invalid_utf8(text, error) from None


def invalid_utf8(text: bytes, error: UnicodeDecodeError) -> EncodingError:
    """The error of a `text` that is no UTF-8."""
    return EncodingError(
        error.start,
        f"0x{text[error.start]:02x} is not UTF-8 there ({error.reason})",
        "convert the text (iconv -t UTF-8), or choose --vocabulary bytes",
    )


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _utf8_widths(codes: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Bytes of each code point in UTF-8."""
    widths = np.ones(codes.size, dtype=np.uint8)
    for first in (0x80, 0x800, 0x10000):
        widths += codes >= first
    return widths
