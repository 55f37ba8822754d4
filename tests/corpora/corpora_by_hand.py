"""Corpora with given documents, written through the writer of splits and a card."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from megachar.corpora.encoding import NO_ENDS, EncodedBlock, Tally
from megachar.corpora.joining import SplitWriter
from megachar.data.corpus import (
    CARD_NAME,
    Corpus,
    CorpusCard,
    SourceCard,
    SplitCard,
    SplitName,
)
from megachar.data.indexed_dataset import MAX_SEQUENCE_TOKENS
from megachar.data.vocabulary import ByteVocabulary
from megachar.data.vocabulary_card import VocabularyCard

Document = Sequence[int] | np.ndarray[Any, Any]


def write_dataset(
    prefix: Path, documents: Sequence[Document], dtype: Any = "uint8", longest: int = MAX_SEQUENCE_TOKENS
) -> None:
    """A dataset of these documents, each of which comes in three blocks."""
    with ThreadPoolExecutor(1) as hashing:
        writer = SplitWriter(prefix, dtype, hashing, None, longest)
        for number, document in enumerate(documents):
            for tokens in np.array_split(np.asarray(document, dtype), 3):
                writer.append(number, EncodedBlock(0, b"", tokens, NO_ENDS, Tally(tokens.size, tokens.size)))
        writer.close()


def write_corpus(
    folder: Path, splits: Mapping[SplitName, Sequence[Document]], longest: int = MAX_SEQUENCE_TOKENS
) -> Corpus:
    """A byte corpus whose splits have these documents, none of them empty."""
    folder.mkdir(parents=True)
    cards = {}
    for name, documents in splits.items():
        write_dataset(folder / name, documents, longest=longest)
        size = sum(len(document) for document in documents)
        cards[name] = SplitCard(num_tokens=size, num_documents=len(documents), num_bytes=size, num_words=0, sha256="0")
    card = CorpusCard(
        format_version=1,
        vocabulary=VocabularyCard(**ByteVocabulary().card()),
        dtype="uint8",
        sources=(SourceCard(name="text", num_bytes=1, sha256="0"),),
        splits=cards,
    )
    (folder / CARD_NAME).write_text(card.to_json(), encoding="utf-8")
    return Corpus.open(folder)


def random_documents(rng: np.random.Generator, lengths: Sequence[int]) -> list[np.ndarray[Any, Any]]:
    return [rng.integers(0, 256, size=length).astype(np.uint8) for length in lengths]
