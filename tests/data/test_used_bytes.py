"""The byte values that occur, each one token."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from megachar.base.errors import DataError
from megachar.corpora.encoding import Recipe
from megachar.corpora.learning import learn_vocabulary
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.corpus import Corpus
from megachar.data.used_bytes import UsedBytesVocabulary
from megachar.data.vocabulary import ByteVocabulary, EncodingError
from tests.draws import fresh_random


def test_a_corpus_like_enwik8(tmp_path: Path) -> None:
    """205 values, some in the held-out text alone, whatever they are in UTF-8; figures count the bytes as they are."""
    draw = fresh_random()
    values = draw.sample(range(256), 205)
    text = bytes([*draw.choices(values[:200], k=5000), *values])
    (tmp_path / "text").write_bytes(text)
    sources = cut_by_position(tmp_path / "text")
    made = learn_vocabulary(sources, Recipe(ByteVocabulary()), "used-bytes", None)
    prepare_corpus(sources, tmp_path / "out", made, unit_bytes=700, chunk_bytes=300)
    corpus = Corpus.open(tmp_path / "out")
    assert (corpus.vocabulary.name, corpus.vocabulary.size, corpus.split("train").dtype) == (
        "used-bytes",
        205,
        np.uint8,
    )
    tokens = np.concatenate([corpus.split(name).tokens for name in corpus.split_names])
    ranks = {value: rank for rank, value in enumerate(sorted(values))}
    assert tokens.tolist() == [ranks[value] for value in text]
    assert corpus.vocabulary.decode(tokens) == text
    assert sum(split.num_bytes for split in corpus.card.splits.values()) == len(text)


def test_a_byte_that_is_no_token() -> None:
    vocabulary = UsedBytesVocabulary(b"ab\xff")
    assert vocabulary.encode(b"\xffba").tolist() == [2, 1, 0]
    assert vocabulary.encode(b"").size == 0
    assert pickle.loads(pickle.dumps(vocabulary)).decode([2, 0]) == b"\xffa"
    with pytest.raises(EncodingError, match=r"byte 2: 0x63 is none of the 3 byte values .*choose --vocabulary bytes"):
        vocabulary.encode(b"abc")
    with pytest.raises(DataError, match="token 3 is outside the vocabulary 'used-bytes' of 3"):
        vocabulary.decode([3])


def test_what_cannot_be_learned() -> None:
    with pytest.raises(DataError, match="no text to learn bytes from"):
        UsedBytesVocabulary.learn([])
    with pytest.raises(DataError, match="one or more different values, not b'aa'"):
        UsedBytesVocabulary(b"aa")
