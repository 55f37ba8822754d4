"""The byte values that occur in a corpus, each one token: enwik8's 205, as the papers count them."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from megachar.base.errors import DataError
from megachar.data.characters import PlacedText
from megachar.data.vocabulary import ByteVocabulary, EncodingError, checked_tokens


class UsedBytesVocabulary(ByteVocabulary):
    """Some of the 256 byte values: token = place among them. A token is a byte, so bits per token are bits per byte."""

    name = "used-bytes"

    def __init__(self, values: bytes) -> None:
        """`values` must be different."""
        if not values or len(set(values)) != len(values):
            raise DataError(f"a vocabulary of bytes needs one or more different values, not {values[:40]!r}")
        self.values, self.size = values, len(values)
        self._values = np.frombuffer(values, dtype=np.uint8)
        self._tokens = np.full(ByteVocabulary.size, -1, dtype=np.int16)
        self._tokens[self._values] = np.arange(self.size)

    @classmethod
    def learn(cls, texts: Iterable[PlacedText]) -> "UsedBytesVocabulary":
        """The values that occur in `texts`, in their order as numbers; DataError where there is no text."""
        occurs = np.zeros(ByteVocabulary.size, dtype=bool)
        for text, _ in texts:
            occurs[np.frombuffer(text, dtype=np.uint8)] = True
        if not occurs.any():
            raise DataError("there is no text to learn bytes from: give a longer text")
        return cls(bytes(np.flatnonzero(occurs).tolist()))

    def encode(self, text: bytes) -> npt.NDArray[np.uint8]:
        """Tokens (t,) of `text`; EncodingError at a byte that is not among the values."""
        tokens = self._tokens[np.frombuffer(text, dtype=np.uint8)]
        if tokens.size and tokens.min() < 0:
            place = int(np.argmax(tokens < 0))
            raise EncodingError(
                place,
                f"0x{text[place]:02x} is none of the {self.size} byte values of the vocabulary '{self.name}'",
                "clean the text, or choose --vocabulary bytes",
            )
        return tokens.astype(np.uint8)

    def decode(self, tokens: Sequence[int] | npt.NDArray[Any]) -> bytes:
        """The bytes of `tokens` (t,); DataError on one outside the vocabulary."""
        return self._values[checked_tokens(tokens, self.name, self.size)].tobytes()

    def card(self) -> dict[str, Any]:
        """The name, the size, and the values in the order of their tokens, as the characters of their numbers."""
        return {"name": self.name, "size": self.size, "symbols": self.values.decode("latin-1")}
