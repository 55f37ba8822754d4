"""What is recorded of a vocabulary beside data or weights, and the vocabulary made of that again."""

import hashlib
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field

from megachar.base.errors import DataError
from megachar.data.characters import CharacterVocabulary
from megachar.data.pieces import MODEL_NAME, PieceVocabulary
from megachar.data.used_bytes import UsedBytesVocabulary
from megachar.data.vocabulary import ByteVocabulary, Unit, Vocabulary


class VocabularyCard(BaseModel):
    """Which vocabulary tokens belong to. Equal cards are equal vocabularies."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    size: int = Field(gt=0)
    """Number of tokens v."""
    symbols: str | None = None
    """Learned sets of characters or bytes alone: the symbols, in the order of their tokens. Bytes are written as the
    characters of their numbers."""
    model_sha256: str | None = None
    """SentencePiece alone: of the file `vocabulary.model` that is kept with the card."""

    @property
    def unit(self) -> Unit:
        """As that of the vocabulary."""
        writes_bytes = self.symbols is not None and self.size > len(self.symbols)
        return "token" if writes_bytes or self.name == PieceVocabulary.name else "character"

    def __str__(self) -> str:
        return f"'{self.name}' ({self.size} tokens)"


def vocabulary_of(card: VocabularyCard, read: Callable[[str], bytes]) -> Vocabulary:
    """The vocabulary that a card describes.

    Args:
        card: its card.
        read: gives a file that is kept with the card (`Vocabulary.files`), by its name, or raises an OSError.

    Raises:
        DataError: the card fits no vocabulary known here, or the files are missing or others.
    """
    vocabulary: Vocabulary
    if card.name == ByteVocabulary.name:
        vocabulary = ByteVocabulary()
    elif card.name == "text8":
        vocabulary = CharacterVocabulary.text8()
    elif card.name == "characters" and card.symbols:
        vocabulary = CharacterVocabulary(card.symbols, bytes_for_others=card.size > len(card.symbols))
    elif card.name == UsedBytesVocabulary.name and card.symbols and max(card.symbols) <= "\xff":
        vocabulary = UsedBytesVocabulary(card.symbols.encode("latin-1"))
    elif card.name == PieceVocabulary.name:
        vocabulary = _pieces_of(card, read)
    else:
        raise DataError(
            f"unknown vocabulary {card.name!r}; this megachar knows: 'bytes', 'used-bytes', 'text8', 'characters', "
            f"'sentencepiece'. Use the megachar that wrote it"
        )
    if card.size != vocabulary.size:
        raise DataError(
            f"the card gives the vocabulary '{vocabulary.name}' {card.size!r} tokens, but it has {vocabulary.size}: "
            f"the card was edited or damaged"
        )
    return vocabulary


def _pieces_of(card: VocabularyCard, read: Callable[[str], bytes]) -> PieceVocabulary:
    try:
        model = read(MODEL_NAME)
    except OSError as error:
        raise DataError(f"{MODEL_NAME}, its SentencePiece model, cannot be read: {error.strerror or error}") from None
    if hashlib.sha256(model).hexdigest() != card.model_sha256:
        raise DataError(f"{MODEL_NAME} is not the SentencePiece model of the card")
    return PieceVocabulary(model, MODEL_NAME)
