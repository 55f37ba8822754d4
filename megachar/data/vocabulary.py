"""Vocabularies: the map between text, as bytes, and tokens, as small integers."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from megachar.errors import DataError


class Vocabulary(Protocol):
    """What preparation, training and generation need to know of a vocabulary."""

    @property
    def name(self) -> str:
        """The name in a corpus card, which `vocabulary_from_card` turns back into the vocabulary."""

    @property
    def size(self) -> int:
        """Number of tokens v; every token is in [0, v)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The integer type of encoded text, also on disk."""

    def encode(self, text: bytes) -> npt.NDArray[Any]:
        """Tokens (t,) of `text`, of type `dtype`."""

    def decode(self, tokens: Sequence[int] | npt.NDArray[Any]) -> bytes:
        """The text of `tokens` (t,); DataError on a token outside [0, v)."""

    def card(self) -> dict[str, Any]:
        """What a corpus card records of the vocabulary: at least its name and size."""


class ByteVocabulary:
    """The 256 byte values: token = byte, so any text can be written and none is changed."""

    name = "bytes"
    size = 256
    dtype = np.dtype(np.uint8)

    def encode(self, text: bytes) -> npt.NDArray[np.uint8]:
        """The bytes of `text` as tokens (t,), uint8. The array is a read-only view, not a copy."""
        return np.frombuffer(text, dtype=np.uint8)

    def decode(self, tokens: Sequence[int] | npt.NDArray[Any]) -> bytes:
        """The bytes of `tokens` (t,), integers in [0, 256); DataError names the first that is not."""
        array = np.asarray(tokens)
        if array.size == 0:
            return b""
        if not np.issubdtype(array.dtype, np.integer):
            raise DataError(f"tokens of type {array.dtype} cannot be decoded: give integers in [0, {self.size})")
        outside = (array < 0) | (array >= self.size)
        if outside.any():
            raise DataError(
                f"token {array[outside].flat[0]} is outside the vocabulary '{self.name}' of {self.size} tokens: "
                "decode with the vocabulary that the tokens were made with"
            )
        return array.astype(np.uint8).tobytes()

    def card(self) -> dict[str, Any]:
        """The name and the size."""
        return {"name": self.name, "size": self.size}


def vocabulary_from_card(card: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary that a corpus card describes (`Vocabulary.card`); DataError where the card fits none."""
    name = card.get("name")
    if name != ByteVocabulary.name:
        raise DataError(
            f"unknown vocabulary {name!r}; this megachar knows: '{ByteVocabulary.name}'. "
            "Prepare the corpus again (python tools/preprocess_data.py ...), or use the megachar that wrote it"
        )
    vocabulary = ByteVocabulary()
    if card.get("size") != vocabulary.size:
        raise DataError(
            f"the card gives the vocabulary '{vocabulary.name}' {card.get('size')!r} tokens, but it has "
            f"{vocabulary.size}: the card was edited or damaged; prepare the corpus again"
        )
    return vocabulary
