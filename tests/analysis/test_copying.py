"""Losses on names that occur again equal plain sums, and only names that are words of their own are swapped."""

from pathlib import Path

import numpy as np
import pytest

from megachar.analysis.copy import Occurrence, analyze_copying, occurrences, swap_name
from megachar.analysis.result import Subject, read_analysis
from megachar.base.errors import ConfigError
from megachar.data.characters import CharacterVocabulary
from megachar.data.vocabulary import ByteVocabulary
from tests.analysis.toys import Bigram, random_table
from tests.runs.test_plots import check_picture

TEXT = "For Ann, Anna said: Ann! Joanné, Anné and Ann".encode()


def test_names_that_are_words_of_their_own() -> None:
    original, swapped = swap_name(TEXT, b"Ann", b"Mxyzptlk")
    assert original.text == TEXT
    assert swapped.text.decode() == "For Mxyzptlk, Anna said: Mxyzptlk! Joanné, Anné and Mxyzptlk"
    for passage, size in ((original, 3), (swapped, 8)):
        assert [passage.text[start : start + size] for start in passage.starts] == [passage.name] * 3


@pytest.mark.parametrize("letters", [False, True])
def test_losses_against_plain_sums(rng: np.random.Generator, letters: bool) -> None:
    """In bytes, and in characters, of which some bytes are one."""
    vocabulary = CharacterVocabulary.learn([(TEXT + b"xyzptlkM", str)], None) if letters else ByteVocabulary()
    table = random_table(rng, vocabulary.size)
    for passage in swap_name(TEXT, b"Ann", b"Mxyzptlk"):
        heard: list[int] = []
        found = occurrences(Bigram(table), passage, vocabulary, heard.append)
        text = passage.text.decode() if letters else passage.text.decode("latin-1")
        name, tokens = passage.name.decode(), vocabulary.encode(passage.text)
        places = [i for i in range(len(text)) if text[i:].startswith(name) and not text[i + len(name) :][:1].isalpha()
                  and text[i + len(name) :][:1] != "\xc3"]  # fmt: skip
        assert [o.distance for o in found] == [place - places[0] for place in places]
        for place, occurrence in zip(places, found, strict=True):
            nats = [-table[tokens[i - 1], tokens[i]] for i in range(place, place + len(name))]
            assert occurrence.bits == pytest.approx(np.mean(nats) / np.log(2))


def test_analysis(tmp_path: Path) -> None:
    passages = swap_name(TEXT, b"Ann", b"Mx\xff")
    original = [Occurrence(d, b) for d, b in ((0, 2.0), (16, 1.5), (37, 1.0))]
    swapped = [Occurrence(d, b) for d, b in ((0, 7.0), (17, 2.5), (39, 2.0))]
    subjects = [Subject("t64", "/runs/t64", 5), Subject("mlstm", "/runs/mlstm", 7)]
    found = [(original, swapped), (swapped, original)]
    saved = analyze_copying(subjects, passages, found, [32, None], {"name": "Ann"}).save(tmp_path)
    assert read_analysis(saved.json) == saved
    check_picture(saved.figure)
    assert [column.name for column in saved.table.columns][2:4] == ["t64: Ann (bits/char)", "t64: Mx\\xff (bits/char)"]
    assert saved.table.rows[1] == (2, 16, 1.5, 2.5, 2.5, 1.5)
    assert saved.csv.read_text().splitlines()[4:7] == [
        "t64,Mx\\xff,1,0,7.0",
        "t64,Mx\\xff,2,17,2.5",
        "t64,Mx\\xff,3,39,2.0",
    ]


@pytest.mark.parametrize(("text", "name", "invented", "message"), [
    (TEXT, b"", b"b", r"--name is empty; give a name"),
    (TEXT, b"Ann", b"", r"--invented is empty; give a name"),
    (TEXT, b"Ann", b"Ann", r"--name and --invented are both 'Ann'; invent another"),
    (TEXT, b"ann", b"b", r"has 'ann' as a word of its own 0 times; name one that occurs twice or more, with capitals"),
    (TEXT, b"Anna", b"b", r"has 'Anna' as a word of its own 1 times"),
    (TEXT, b"Ann", b"said", r"has 'said' already; invent a name that it does not have"),
    (b"Ann and Ann", b"Ann", b"Bob", r"begins with 'Ann', which is then predicted from nothing; put some text before"),
])  # fmt: skip
def test_names_that_cannot_be(text: bytes, name: bytes, invented: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        swap_name(text, name, invented)
