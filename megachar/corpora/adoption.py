"""Datasets that another program wrote, made into a corpus: checked, linked and described, not copied."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from megachar.base.errors import DataError
from megachar.base.files import shown
from megachar.corpora.downloads.download import Stage, silent_stage
from megachar.corpora.preparation import check_output, whole_folder, write_card
from megachar.corpora.words import WordCounter
from megachar.data.corpus import FORMAT_VERSION, CorpusCard, SourceCard, SplitCard, SplitName
from megachar.data.digests import Progress, hash_file
from megachar.data.indexed_dataset import IndexedDataset, bin_path, idx_path
from megachar.data.vocabulary import Vocabulary
from megachar.data.vocabulary_card import VocabularyCard

_DECODED_TOKENS = 1 << 20


def adopt_datasets(
    prefixes: Mapping[SplitName, Path], output: Path, vocabulary: Vocabulary, stage: Stage = silent_stage
) -> CorpusCard:
    """Make the corpus `output` of a dataset for each split, given without `.bin`, and return its card.

    Its files become hard links to those of the datasets: they take no room, and stay when the others are deleted.
    DataError where a dataset is missing or damaged, holds a token that `vocabulary` has not or numbers that are no
    tokens, where `output` exists, or lies on another disk.
    """
    output = output.resolve()
    check_output([], output, overwrite=False)
    datasets = {name: IndexedDataset(prefix) for name, prefix in prefixes.items()}
    dtypes = {dataset.dtype.name for dataset in datasets.values()}
    if len(dtypes) > 1:
        raise DataError(f"splits of the types {' and '.join(sorted(dtypes))} make no corpus: adopt them one by one")
    if not np.issubdtype(np.dtype(*dtypes), np.integer):
        raise DataError(f"{', '.join(map(str, prefixes.values()))}: numbers of type {dtypes.pop()} are no tokens")
    splits: dict[SplitName, SplitCard] = {}
    with whole_folder(output, durable=True) as folder:
        for name, dataset in datasets.items():
            with stage(f"Checking {dataset.prefix}", dataset.num_tokens) as progress:
                splits[name] = _measured(dataset, vocabulary, progress)
            for path_of in (bin_path, idx_path):
                _link(path_of(dataset.prefix), path_of(folder / name))
        card = CorpusCard(
            format_version=FORMAT_VERSION,
            vocabulary=VocabularyCard(**vocabulary.card()),
            dtype=dtypes.pop(),
            sources=tuple(
                SourceCard(
                    name=shown(bin_path(prefix).name),
                    num_bytes=bin_path(prefix).stat().st_size,
                    sha256=splits[name].sha256,
                )
                for name, prefix in prefixes.items()
            ),
            splits=splits,
        )
        write_card(folder, card, vocabulary, durable=True)
    return card


def _measured(dataset: IndexedDataset, vocabulary: Vocabulary, progress: Progress) -> SplitCard:
    """Read all of a dataset; DataError where its index is damaged or a token is none of the vocabulary's."""
    dataset.check_index()
    words, num_bytes, position = WordCounter(), 0, 0
    for lengths in dataset.document_lengths():
        for length in lengths.tolist():
            for start in range(position, position + length, _DECODED_TOKENS):
                tokens = dataset.tokens[start : min(start + _DECODED_TOKENS, position + length)]
                try:
                    text = vocabulary.decode(tokens)
                except DataError as error:
                    raise DataError(f"{dataset.prefix}: {error}; for SentencePiece name its --model") from None
                words.update(np.frombuffer(text, dtype=np.uint8))
                num_bytes += len(text)
                progress(tokens.size)
            words.end_document()
            position += length
    if not num_bytes:
        raise DataError(f"{dataset.prefix} holds no text: its tokens stand for none")
    return SplitCard(
        num_tokens=dataset.num_tokens,
        num_documents=dataset.num_documents,
        num_bytes=num_bytes,
        num_words=words.num_words,
        sha256=hash_file(bin_path(dataset.prefix), "sha256"),
    )


def _link(existing: Path, path: Path) -> None:
    try:
        os.link(existing.resolve(), path)
    except OSError as error:
        raise DataError(
            f"{existing} cannot be linked to from {path.parent.parent} ({error.strerror}): choose an --output beside it"
        ) from None
