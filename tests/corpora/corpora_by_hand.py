"""Corpora with given documents, written through the dataset writer and a card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megachar.data.corpus import (
    CARD_NAME,
    Corpus,
    CorpusCard,
    SourceCard,
    SplitCard,
    SplitName,
)
from megachar.data.indexed_dataset import IndexedDatasetWriter
from megachar.data.vocabulary import ByteVocabulary
from megachar.data.vocabulary_card import VocabularyCard

Document = Sequence[int] | np.ndarray[Any, Any]


def write_dataset(prefix: Path, documents: Sequence[Document], dtype: str = "uint8", longest: int = 2**31 - 1) -> None:
    with IndexedDatasetWriter(prefix, dtype, max_sequence_tokens=longest) as writer:
        for document in documents:
            writer.append(document)
            writer.end_document()


def write_corpus(folder: Path, splits: Mapping[SplitName, Sequence[Document]], longest: int = 2**31 - 1) -> Corpus:
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
