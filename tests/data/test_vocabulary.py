import secrets

import numpy as np
import pytest

from megachar.data.vocabulary import ByteVocabulary, Vocabulary, vocabulary_from_card
from megachar.errors import DataError


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


def test_card_round_trip() -> None:
    vocabulary = vocabulary_from_card(ByteVocabulary().card())
    assert (vocabulary.name, vocabulary.size) == ("bytes", 256)


@pytest.mark.parametrize("card", [{"name": "klingon", "size": 256}, {"size": 256}])
def test_unknown_vocabulary(card: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"unknown vocabulary .* knows: 'bytes'"):
        vocabulary_from_card(card)


def test_wrong_size() -> None:
    with pytest.raises(DataError, match=r"'bytes' 300 tokens, but it has 256"):
        vocabulary_from_card({"name": "bytes", "size": 300})
