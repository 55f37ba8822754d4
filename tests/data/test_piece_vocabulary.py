"""SentencePiece tokens are the library's, every text comes back, and models that change text are refused."""

import io
import itertools
import pickle
import random
import secrets
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from megachar.base.errors import DataError
from megachar.corpora.encoding import Recipe
from megachar.corpora.learning import learn_vocabulary
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.corpus import Corpus
from megachar.data.pieces import PieceVocabulary
from megachar.data.vocabulary import ByteVocabulary, EncodingError
from tests.corpora.preprocessing_by_hand import random_string
from tests.draws import fresh_random

WORDS = ["the", "then", "there", "other", "mother", "moth", "a", "an", "and", "band", "über", "中文"]


def prose(draw: random.Random, num_words: int) -> str:
    return "".join(draw.choice(WORDS) + draw.choice("     \n") for _ in range(num_words))


@pytest.fixture(scope="module", params=["unigram", "bpe", "char"])
def vocabulary(request: pytest.FixtureRequest) -> PieceVocabulary:
    return PieceVocabulary.train([(prose(random.Random(1), 5000).encode(), str)], 320, request.param)


def model(**settings: object) -> bytes:
    """A small model trained as `settings` say."""
    made = io.BytesIO()
    fixed = {"vocab_size": 320, "hard_vocab_limit": False, "minloglevel": 2, "model_writer": made}
    sentences = iter(prose(random.Random(1), 3000).split("\n"))
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=sentences, **{**fixed, **settings})
    return made.getvalue()


def test_every_text_comes_back(vocabulary: PieceVocabulary) -> None:
    seed = secrets.randbits(32)
    draw = random.Random(seed)
    for _ in range(200):
        texts = [(prose if draw.random() < 0.5 else random_string)(draw, 40).encode() for _ in range(4)]
        ends = np.cumsum([len(text) for text in texts])
        tokens, token_ends = vocabulary.encode_documents(b"".join(texts), ends)
        starts = [0, *token_ends.tolist()]
        decoded = [vocabulary.decode(tokens[a:b]) for a, b in itertools.pairwise(starts)]
        assert decoded == texts, f"seed {seed}"
        assert tokens.dtype == vocabulary.dtype == np.uint16


@pytest.mark.parametrize(
    "text", ["", " ", "  ", "\n", " \n ", "\u2581", "a\u2581b", "\0", "\ufeffa", "e\u0301", "\r\n", "<s>"]
)
def test_texts_that_are_easily_changed(vocabulary: PieceVocabulary, text: str) -> None:
    assert vocabulary.decode(vocabulary.encode(text.encode())) == text.encode()


def test_tokens_are_those_of_the_library(vocabulary: PieceVocabulary) -> None:
    """Also where a long text is encoded in parts."""
    text = prose(fresh_random(), 5000)
    assert len(text) > 1000
    library = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.model)
    for each in (text, text.replace("\n", " ")):
        assert vocabulary.encode(each.encode()).tolist() == library.encode(each)


def test_text_without_any_space(vocabulary: PieceVocabulary) -> None:
    text = b"ab" * 50_000
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_training_is_the_same_every_time() -> None:
    first, second = (PieceVocabulary.train([(prose(random.Random(2), 1000).encode(), str)], 300, "bpe") for _ in "ab")
    assert first.model == second.model


def test_training_on_a_text_without_lines() -> None:
    text = prose(random.Random(2), 5000).replace("\n", " ").encode()
    assert PieceVocabulary.train([(text, str)], 300, "bpe").size == 300


def test_pickle(vocabulary: PieceVocabulary) -> None:
    copy = pickle.loads(pickle.dumps(vocabulary))
    assert copy.encode(b"the mother").tolist() == vocabulary.encode(b"the mother").tolist()


def test_what_cannot_be_encoded_or_decoded(vocabulary: PieceVocabulary) -> None:
    with pytest.raises(EncodingError, match="0xff is not UTF-8 there") as raised:
        vocabulary.encode(b"the \xff")
    assert raised.value.position == 4
    with pytest.raises(DataError, match=f"token {vocabulary.size} is outside the vocabulary 'sentencepiece'"):
        vocabulary.decode([vocabulary.size])


EXACT = {
    "byte_fallback": True, "normalization_rule_name": "identity", "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"byte_fallback": False}, "it has no byte fallback"),
        ({"normalization_rule_name": "nmt_nfkc"}, "it normalizes text"),
        ({"add_dummy_prefix": True}, "it adds a space before the text"),
        ({"remove_extra_whitespaces": True}, "it removes spaces"),
        ({"treat_whitespace_as_suffix": True}, "it writes the space after a word"),
    ],
)
def test_models_that_change_the_text(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=rf"my model cannot give back every text as it was: {message}.* Train one here"):
        PieceVocabulary(model(**{**EXACT, **change}), "my model")


def test_model_of_others(tmp_path: Path) -> None:
    """With control pieces, which stand for no text."""
    (tmp_path / "my.model").write_bytes(model(**EXACT))
    vocabulary = PieceVocabulary.load(tmp_path / "my.model")
    assert vocabulary.decode([0, 1, 2]) == b""  # <unk>, <s>, </s>
    assert vocabulary.decode(vocabulary.encode(b"<s> the</s>")) == b"<s> the</s>"
    with pytest.raises(DataError, match=r"gone\.model does not exist"):
        PieceVocabulary.load(tmp_path / "gone.model")
    (tmp_path / "bad.model").write_bytes(b"this is no model")
    with pytest.raises(DataError, match=r"bad\.model is no SentencePiece model"):
        PieceVocabulary.load(tmp_path / "bad.model")


def test_training_that_cannot_be() -> None:
    with pytest.raises(DataError, match="a SentencePiece vocabulary of 200 has no room beside the bytes: use 258"):
        PieceVocabulary.train([(b"the", str)], 200, "bpe")
    with pytest.raises(DataError, match="could not train a bpe model of 300 pieces"):
        PieceVocabulary.train([], 300, "bpe")
    with pytest.raises(DataError, match="place 1: 0xff is not UTF-8"):
        PieceVocabulary.train([(b"a\xff", lambda position: f"place {position}")], 300, "bpe")


def test_corpus_keeps_its_model(tmp_path: Path) -> None:
    (tmp_path / "text").write_text(prose(random.Random(3), 3000))
    sources = cut_by_position(tmp_path / "text")
    vocabulary = learn_vocabulary(sources, Recipe(ByteVocabulary()), "sentencepiece", 300, "bpe")
    prepare_corpus(sources, tmp_path / "out", vocabulary)
    prepare_corpus(sources, tmp_path / "out", vocabulary, overwrite=True)
    corpus = Corpus.open(tmp_path / "out")
    texts = [corpus.vocabulary.decode(corpus.split(name).tokens) for name in corpus.split_names]
    assert b"".join(texts) == (tmp_path / "text").read_bytes()
    assert sum(split.num_bytes for split in corpus.card.splits.values()) == len(b"".join(texts))
    (tmp_path / "out" / "vocabulary.model").write_bytes(model(**EXACT))
    with pytest.raises(DataError, match=r"vocabulary\.model is not the SentencePiece model of the card; copy the"):
        Corpus.open(tmp_path / "out")
    (tmp_path / "out" / "vocabulary.model").unlink()
    with pytest.raises(DataError, match=r"vocabulary\.model, its SentencePiece model, cannot be read: No such file"):
        Corpus.open(tmp_path / "out")
