"""Vocabularies: the map between text, as bytes, and tokens, as small integers. Here: the protocol, and bytes.

`megachar.data.characters` and `megachar.data.pieces` hold the others.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from megachar.base.errors import DataError

Int64 = npt.NDArray[np.int64]


class Cut(Enum):
    """Where a long text may be cut without a change to its tokens."""

    ANYWHERE = "anywhere"
    CHARACTERS = "characters"
    """Between two UTF-8 characters."""
    WORDS = "words"
    """After a line end, or before a space."""


Unit = Literal["character", "token"]


class EncodingError(DataError):
    """A text that a vocabulary cannot encode; whoever knows the text's file adds that to the message."""

    def __init__(self, position: int, problem: str, mend: str) -> None:
        super().__init__(f"byte {position:,}: {problem}; {mend}")
        self.position = position
        """Byte of the text, from 0."""
        self.problem = problem
        self.mend = mend
        """What to do about it where a corpus is prepared."""

    def at(self, place: str) -> DataError:
        """The error of a text that lies in a file, as it is told to people: with the place of the byte there."""
        return DataError(f"{place}: {self.problem}; {self.mend}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.position, self.problem, self.mend)


class Vocabulary(Protocol):
    """What preparation, training and generation need to know of a vocabulary.

    Encoding then decoding gives the bytes that were encoded, always; what cannot be so is refused.
    """

    name: str
    """The name in a corpus card."""
    unit: Unit
    """What one token is called: a character (or a byte taken for one), or where it may be more or less, a token."""
    size: int
    """Number of tokens v; every token is in [0, v)."""
    dtype: np.dtype[Any]
    """The integer type of encoded text, also on disk."""
    cut: Cut
    """Where a text may be cut so that the parts' tokens, joined, are the whole's."""

    def encode(self, text: bytes) -> npt.NDArray[Any]:
        """Tokens (t,) of `text`, of type `dtype`; EncodingError where it cannot be written with them."""

    def encode_documents(self, text: bytes, ends: Int64) -> tuple[npt.NDArray[Any], Int64]:
        """Tokens (t,) of documents one after another, and where each ends in them, (documents,).

        `ends` (documents,) are the ends in bytes; what follows the last belongs to a document that ends later.
        """

    def decode(self, tokens: Sequence[int] | npt.NDArray[Any]) -> bytes:
        """The text of `tokens` (t,); DataError on a token outside [0, v)."""

    def card(self) -> dict[str, Any]:
        """What a corpus card records of the vocabulary: at least its name and size."""

    def files(self) -> dict[str, bytes]:
        """Files, by name, that a corpus keeps beside its card so that it can be read with no other."""


def token_dtype(size: int) -> np.dtype[Any]:
    """The smallest type on disk that holds `size` tokens: uint8, uint16 or int32 (Megatron's format has no uint32)."""
    if size <= 1 << 8:
        return np.dtype(np.uint8)
    return np.dtype(np.uint16) if size <= 1 << 16 else np.dtype(np.int32)


def checked_tokens(tokens: Sequence[int] | npt.NDArray[Any], name: str, size: int) -> npt.NDArray[Any]:
    """`tokens` as an array of integers in [0, size); DataError names the first that is not."""
    array = np.asarray(tokens)
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"tokens of type {array.dtype} cannot be decoded: give integers in [0, {size})")
    outside = (array < 0) | (array >= size)
    if outside.any():
        raise DataError(
            f"token {array[outside].flat[0]} is outside the vocabulary '{name}' of {size} tokens: "
            "decode with the vocabulary that the tokens were made with"
        )
    return array


class ByteVocabulary:
    """The 256 byte values: token = byte, so any text can be written and none is changed."""

    name = "bytes"
    unit: Unit = "character"
    size = 256
    dtype = np.dtype(np.uint8)
    cut = Cut.ANYWHERE

    def encode(self, text: bytes) -> npt.NDArray[np.uint8]:
        """The bytes of `text` as tokens (t,), uint8. The array is a read-only view, not a copy."""
        return np.frombuffer(text, dtype=np.uint8)

    def encode_documents(self, text: bytes, ends: Int64) -> tuple[npt.NDArray[np.uint8], Int64]:
        """The tokens of `text`, and the same ends: a token is a byte."""
        return self.encode(text), ends

    def decode(self, tokens: Sequence[int] | npt.NDArray[Any]) -> bytes:
        """The bytes of `tokens` (t,), integers in [0, 256); DataError names the first that is not."""
        return checked_tokens(tokens, self.name, self.size).astype(np.uint8).tobytes()

    def card(self) -> dict[str, Any]:
        """The name and the size."""
        return {"name": self.name, "size": self.size}

    def files(self) -> dict[str, bytes]:
        """None."""
        return {}
