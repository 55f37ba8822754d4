"""Bytes as tokens, cards of vocabularies, and cards that are refused."""

import secrets

import numpy as np
import pytest

from megachar.base.errors import DataError
from megachar.data.vocabulary import ByteVocabulary, Vocabulary
from megachar.data.vocabulary_card import VocabularyCard, vocabulary_of


def test_every_byte_is_its_own_token() -> None:
    text = bytes(range(256)) + secrets.token_bytes(1000)
    vocabulary: Vocabulary = ByteVocabulary()
    tokens = vocabulary.encode(text)
    assert tokens.dtype == vocabulary.dtype == np.uint8
    assert tokens.tolist() == list(text)
    assert vocabulary.decode(tokens) == text
    assert vocabulary.decode(tokens.astype(np.int64)) == text
    assert vocabulary.decode(list(text)) == text
    assert vocabulary.decode([]) == b""
    assert vocabulary.decode(vocabulary.encode(b"")) == b""


@pytest.mark.parametrize("token", [256, -1, 10**6])
def test_a_token_outside_is_named(token: int) -> None:
    with pytest.raises(DataError, match=rf"token {token} is outside the vocabulary 'bytes' of 256"):
        ByteVocabulary().decode([65, token, 999])


def test_tokens_must_be_integers() -> None:
    with pytest.raises(DataError, match="float64 cannot be decoded"):
        ByteVocabulary().decode(np.array([1.5]))


def no_file(name: str) -> bytes:
    raise AssertionError(name)


def test_card_round_trip() -> None:
    vocabulary = vocabulary_of(VocabularyCard(**ByteVocabulary().card()), no_file)
    assert (vocabulary.name, vocabulary.size) == ("bytes", 256)


def test_unknown_vocabulary() -> None:
    with pytest.raises(DataError, match=r"unknown vocabulary 'klingon'; .* knows: 'bytes'"):
        vocabulary_of(VocabularyCard(name="klingon", size=256), no_file)


def test_wrong_size() -> None:
    with pytest.raises(DataError, match=r"'bytes' 300 tokens, but it has 256"):
        vocabulary_of(VocabularyCard(name="bytes", size=300), no_file)
