"""Datasets made by other tools get a card by `megachar corpus adopt`, or a refusal that says what is wrong."""

import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from megachar.base.errors import ConfigError, DataError
from megachar.cli.corpus import app
from megachar.corpora.adoption import adopt_datasets
from megachar.corpora.inspection import verify_split
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.corpus import Corpus
from megachar.data.indexed_dataset import bin_path, idx_path
from megachar.data.pieces import PieceVocabulary
from megachar.data.vocabulary import ByteVocabulary, Vocabulary
from tests.corpora.corpora_by_hand import write_dataset
from tests.corpora.preprocessing_by_hand import tree

TEXT = "zwei wörter\n\nund noch\tdrei Wörter\nals letztes\n".encode() * 40


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A dataset of lines as bytes, in a wider type, as another program may have written it."""
    write(tmp_path / "foreign_text_document", TEXT.splitlines(keepends=True), ByteVocabulary(), "int32")
    return tmp_path / "foreign_text_document"


def write(prefix: Path, documents: list[bytes], vocabulary: Vocabulary, dtype: Any) -> None:
    write_dataset(prefix, [vocabulary.encode(document) for document in documents], dtype, longest=7)


def prepared(folder: Path, vocabulary: Vocabulary) -> Corpus:
    """The same text, prepared here."""
    (folder / "text").write_bytes(TEXT)
    prepare_corpus(cut_by_position(folder / "text", "100,0,0"), folder / "prepared", vocabulary, documents="line")
    return Corpus.open(folder / "prepared")


def test_the_command(tmp_path: Path, foreign: Path) -> None:
    output = tmp_path / "corpus"
    done = CliRunner().invoke(app, ["adopt", "--train", f"{foreign}.bin", "--output", str(output)])
    assert done.exit_code == 0, done.output
    assert "vocabulary bytes (256)" in done.output
    adopted, wanted = Corpus.open(output), prepared(tmp_path, ByteVocabulary())
    assert adopted.vocabulary.decode(adopted.split("train").tokens) == TEXT
    verify_split(adopted, "train")
    ours, theirs = (corpus.card.splits["train"].model_dump(exclude={"sha256"}) for corpus in (adopted, wanted))
    assert ours == theirs
    bin_path(foreign).unlink()
    idx_path(foreign).unlink()
    assert adopted.split("train").num_documents == wanted.split("train").num_documents


def test_names_that_are_no_utf8(tmp_path: Path, foreign: Path) -> None:
    """The card, which is UTF-8, shows them escaped."""
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    for path_of in (bin_path, idx_path):
        path_of(foreign).rename(path_of(odd))
    adopt_datasets({"train": odd}, tmp_path / "corpus", ByteVocabulary())
    assert Corpus.open(tmp_path / "corpus").card.sources[0].name == r"caf\xe9.bin"


def test_pieces_and_several_splits(tmp_path: Path) -> None:
    vocabulary = PieceVocabulary.train([(TEXT, str)], 280, "bpe")
    for name in ("a", "b"):
        write(tmp_path / name, TEXT.splitlines(keepends=True), vocabulary, "uint16")
    card = adopt_datasets({"train": tmp_path / "a", "test": tmp_path / "b"}, tmp_path / "corpus", vocabulary)
    wanted = prepared(tmp_path, vocabulary).card
    assert card.splits["test"] == card.splits["train"]
    assert card.splits["train"] == wanted.splits["train"]
    corpus = Corpus.open(tmp_path / "corpus")
    assert corpus.vocabulary.decode(corpus.split("test").tokens) == TEXT


def test_what_is_refused(tmp_path: Path, foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "corpus"
    write(tmp_path / "numbers", [b"abc"], ByteVocabulary(), "float32")
    write(tmp_path / "small", [b"abc"], ByteVocabulary(), "uint8")
    write_dataset(tmp_path / "pieces", [[1, 256]], "int32")
    before = tree(tmp_path)
    for prefix, message in (
        ("numbers", "numbers of type float32 are no tokens"),
        ("pieces", r"pieces: token 256 is outside the vocabulary 'bytes' .*; for SentencePiece name its --model"),
        ("nothing", "no dataset at .*nothing"),
    ):
        with pytest.raises(DataError, match=message):
            adopt_datasets({"train": tmp_path / prefix}, output, ByteVocabulary())
    with pytest.raises(DataError, match="splits of the types int32 and uint8 make no corpus: adopt them one by one"):
        adopt_datasets({"train": foreign, "valid": tmp_path / "small"}, output, ByteVocabulary())
    with pytest.raises(DataError, match=r"the output .* exists already"):
        adopt_datasets({"train": foreign}, tmp_path, ByteVocabulary())
    with pytest.raises(ConfigError, match="nothing to adopt: give a dataset to --train"):
        CliRunner().invoke(app, ["adopt", "--output", str(output)], catch_exceptions=False)

    def other_disk(*paths: Path) -> None:
        raise OSError(18, os.strerror(18))

    monkeypatch.setattr(os, "link", other_disk)
    with pytest.raises(DataError, match=r"cannot be linked to from .* \(Invalid cross-.*\): choose an --output"):
        adopt_datasets({"train": foreign}, output, ByteVocabulary())
    assert tree(tmp_path) == before


def test_who_opens_a_dataset_learns_of_it(tmp_path: Path, foreign: Path) -> None:
    mend = rf"megachar corpus adopt --train {foreign} --output FOLDER"
    with pytest.raises(DataError, match=rf"is a dataset without a dataset\.json; make a corpus of it: {mend}"):
        Corpus.open(foreign)
    with pytest.raises(DataError, match=rf"holds datasets but no dataset\.json; make a corpus of them: {mend}"):
        Corpus.open(tmp_path)
