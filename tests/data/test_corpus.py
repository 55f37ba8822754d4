"""A corpus is opened by its card alone, its fingerprint tells it from others, and damaged cards are refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megachar.base.errors import DataError
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.corpus import Corpus
from megachar.data.vocabulary import ByteVocabulary
from tests.corpora.corpora_by_hand import write_dataset
from tests.draws import fresh_rng


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    text = fresh_rng().integers(0, 256, size=1000).astype(np.uint8).tobytes()
    (tmp_path / "text").write_bytes(text)
    prepare_corpus(cut_by_position(tmp_path / "text", "80,20,0"), tmp_path / "corpus", ByteVocabulary())
    return tmp_path / "corpus"


def edit(folder: Path, change: dict[str, Any]) -> None:
    card = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**card, **change}))


def test_open(folder: Path) -> None:
    text = (folder.parent / "text").read_bytes()
    corpus = Corpus.open(folder)
    assert corpus.split_names == ("train", "valid")
    assert corpus.vocabulary.decode(corpus.split("train").tokens) == text[:800]
    assert corpus.vocabulary.decode(corpus.split("valid").tokens) == text[800:]
    assert corpus.split("train") is corpus.split("train")


def test_opening_reads_only_the_card(folder: Path) -> None:
    (folder / "train.bin").unlink()
    corpus = Corpus.open(folder)
    assert corpus.split("valid").num_tokens == 200
    with pytest.raises(DataError, match=r"train\.bin is missing"):
        corpus.split("train")


def test_fingerprint_tells_corpora_apart(folder: Path) -> None:
    first = Corpus.open(folder).fingerprint
    assert len(first) == 16
    card = json.loads((folder / "dataset.json").read_text())
    shuffled = {**dict(reversed(card.items())), "splits": dict(reversed(card["splits"].items()))}
    (folder / "dataset.json").write_text(json.dumps(shuffled))  # order and spaces do not count
    assert Corpus.open(folder).fingerprint == first
    card["splits"]["train"]["sha256"] = "0" * 64
    (folder / "dataset.json").write_text(json.dumps(card))
    assert Corpus.open(folder).fingerprint != first


def test_absent_split(folder: Path) -> None:
    with pytest.raises(DataError, match=r"has no split 'test'; it has: train, valid\. .*megachar corpus prepare"):
        Corpus.open(folder).split("test")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no corpus at .*nowhere: .*megachar corpus prepare TEXT --output"):
        Corpus.open(tmp_path / "nowhere")


def test_folder_without_a_card(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("x")
    with pytest.raises(DataError, match=r"has no dataset\.json \(it holds: corpus\.txt\)"):
        Corpus.open(tmp_path)


@pytest.mark.parametrize("text", ["", "{", '{"format_version": 1', "\xff"])
def test_card_that_is_no_json(folder: Path, text: str) -> None:
    (folder / "dataset.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"dataset\.json is not JSON .*--overwrite"):
        Corpus.open(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"color": "red"}, "is no corpus card .*color: Extra inputs are not permitted"),
        ({"splits": {}}, "is no corpus card .*splits: "),
        ({"splits": {"train": {"num_tokens": 5}}}, r"splits\.train\.num_bytes: Field required"),
        ({"format_version": 2}, "format version 2; this megachar reads version 1"),
        ({"format_version": None}, "is no corpus card .*format_version: "),
        ({"dtype": "uint7"}, "unknown dtype 'uint7'"),
        ({"dtype": "007"}, "unknown dtype '007'"),
        ({"dtype": "uint16"}, "dtype uint8 on disk, uint16 in the card"),
        ({"vocabulary": {"name": "klingon", "size": 256}}, r"dataset\.json: unknown vocabulary 'klingon'"),
    ],
)
def test_damaged_card(folder: Path, change: dict[str, Any], message: str) -> None:
    edit(folder, change)
    with pytest.raises(DataError, match=message):
        Corpus.open(folder).split("train")


def test_card_that_is_a_list(folder: Path) -> None:
    (folder / "dataset.json").write_text("[]")
    with pytest.raises(DataError, match="is no corpus card"):
        Corpus.open(folder)


def test_data_that_do_not_fit_the_card(folder: Path) -> None:
    write_dataset(folder / "train", [[1, 2, 3]])
    with pytest.raises(DataError, match=r"train does not fit dataset\.json: tokens 3 on disk, 800 in the card"):
        Corpus.open(folder).split("train")
    write_dataset(folder / "train", [[0] * 400] * 2)
    with pytest.raises(DataError, match="documents 2 on disk, 1 in the card"):
        Corpus.open(folder).split("train")


def test_card_is_frozen(folder: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        Corpus.open(folder).card.dtype = "int8"  # type: ignore[misc]


def test_data_imports_no_torch() -> None:
    code = (
        "import sys, megachar.data.batches, megachar.corpora.preparation, megachar.data.sampler\n"
        "print([name for name in ('torch', 'deepspeed') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_name_that_no_file_system_can_hold() -> None:
    with pytest.raises(DataError, match="File name too long; shorten it"):
        Corpus.open(Path("a" * 300))
