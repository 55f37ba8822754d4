"""Preparation against the slow and plain way: any packing, vocabulary, document, unit, block and number of workers."""

import hashlib
import random
import secrets
from pathlib import Path

import pytest

from megachar.corpora.inputs import find_inputs
from megachar.corpora.plan import total_bytes
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.characters import CharacterVocabulary
from megachar.data.corpus import Corpus
from megachar.data.pieces import PieceVocabulary
from megachar.data.vocabulary import ByteVocabulary, Vocabulary
from tests.corpora.preprocessing_by_hand import (
    json_lines,
    pack,
    random_records,
    random_string,
    split_documents,
    tree,
    words_of,
)
from tests.draws import fresh_random

CASES = 12
PACKINGS = ("plain", "gz", "bz2", "xz", "zst", "zip")


@pytest.fixture(scope="module")
def pieces() -> PieceVocabulary:
    draw = random.Random(0)
    return PieceVocabulary.train([(random_string(draw, 20_000).encode(), str)], 300, "bpe")


def vocabulary_named(name: str, pieces: PieceVocabulary) -> Vocabulary:
    if name == "sentencepiece":
        return pieces
    return ByteVocabulary() if name == "bytes" else CharacterVocabulary("abc \n中", bytes_for_others=True)


def documents_of(corpus: Corpus, name: str) -> list[bytes]:
    dataset = corpus.split(name)
    assert dataset.num_sequences == dataset.num_documents  # short ones
    documents, start = [], 0
    for length in dataset.sequence_lengths.tolist():
        documents.append(corpus.vocabulary.decode(dataset.tokens[start : start + length]))
        start += length
    return documents


@pytest.mark.parametrize("documents", ["file", "line", "record"])
@pytest.mark.parametrize("name", ["bytes", "characters", "sentencepiece"])
def test_every_way_gives_the_plain_result(tmp_path: Path, documents: str, name: str, pieces: PieceVocabulary) -> None:
    seed = secrets.randbits(32)
    draw = random.Random(seed)
    vocabulary = vocabulary_named(name, pieces)
    for case in range(CASES):
        folder = tmp_path / f"case-{case}"
        (folder / "in").mkdir(parents=True)
        texts, total = [], 0
        for number in range(draw.randrange(1, 5)):
            packing = draw.choice(PACKINGS)
            text = random_string(draw, 400).encode() + b"aa"
            if documents == "record":
                text = json_lines(draw, random_records(draw, draw.randrange(1, 30)))
            texts.append(text)
            packed = pack(text, packing)
            total += len(text) if packing in ("plain", "zip") else len(packed)
            (folder / "in" / f"{number}.{packing}").write_bytes(packed)
        shares = draw.choice([(100, 0, 0), (60, 30, 10), (0, 100, 0)])
        expected = split_documents(texts, shares, documents, cut_of(documents, name))
        expected = {split: found for split, found in expected.items() if found}
        if len(expected) < sum(share > 0 for share in shares):
            continue  # a split would be empty
        sizes = {"chunk_bytes": draw.choice([1, 7, 50, 1000, 1 << 20]), "unit_bytes": draw.choice([1, 20, 100, 10**6])}
        sources = cut_by_position(find_inputs([folder / "in"]), ",".join(map(str, shares)))
        done: list[int] = []
        card = prepare_corpus(
            sources,
            folder / "out",
            vocabulary,
            documents=documents,
            progress=done.append,
            **sizes,  # type: ignore[arg-type]
        )
        where = f"seed {seed}, case {case}, {sizes}, shares {shares}"
        assert sum(done) == total_bytes(sources) == total, where
        corpus = Corpus.open(folder / "out")
        assert {split: documents_of(corpus, split) for split in corpus.split_names} == expected, where
        for split, found in expected.items():
            counts = card.splits[split]  # type: ignore[index]
            assert counts.num_bytes == sum(map(len, found)), where
            assert counts.num_words == sum(map(words_of, found)), where
            stored = (folder / "out" / f"{split}.bin").read_bytes()
            assert counts.sha256 == hashlib.sha256(stored).hexdigest(), where
        for source, path in zip(card.sources, sorted((folder / "in").iterdir()), strict=True):
            assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest(), where
        assert sorted(tree(folder / "out")) == sorted(
            ["dataset.json", *vocabulary.files(), *(f"{s}.{e}" for s in expected for e in ("bin", "idx"))]
        )


def cut_of(documents: str, name: str) -> str:
    if documents != "file":
        return "lines"
    return {"bytes": "anywhere", "characters": "characters", "sentencepiece": "words"}[name]


@pytest.mark.parametrize("documents", ["file", "line", "record"])
def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path, documents: str, pieces: PieceVocabulary) -> None:
    draw = fresh_random()
    (tmp_path / "in").mkdir()
    for packing in ("plain", "xz"):
        text = random_string(draw, 20_000).encode()
        if documents == "record":
            text = json_lines(draw, random_records(draw, 300))
        (tmp_path / "in" / packing).write_bytes(pack(text, packing))
    for num_workers in (1, 2, 3):
        prepare_corpus(
            cut_by_position(find_inputs([tmp_path / "in"])), tmp_path / f"out-{num_workers}",
            pieces, documents=documents, num_workers=num_workers, unit_bytes=3000, chunk_bytes=900,  # type: ignore[arg-type]
        )  # fmt: skip
    alone = tree(tmp_path / "out-1")
    assert tree(tmp_path / "out-2") == alone
    assert tree(tmp_path / "out-3") == alone
