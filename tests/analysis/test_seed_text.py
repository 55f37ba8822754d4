"""Entropy, rank and loss per character equal plain loops, and are right for predictions known in advance."""

from pathlib import Path

import numpy as np
import pytest

from megachar.analysis.result import Subject, read_analysis
from megachar.analysis.seed_text import analyze_seed_text, check_text, expectations
from megachar.base.errors import DataError
from tests.analysis.toys import Bigram, random_table
from tests.runs.test_plots import check_picture


def test_against_plain_loops(rng: np.random.Generator) -> None:
    table = random_table(rng, 7)
    tokens = rng.integers(0, 7, size=40).astype(np.uint8)
    heard: list[int] = []
    found = expectations(Bigram(table), tokens, heard.append)
    for i in range(1, 40):
        row = [float(value) for value in table[tokens[i - 1]]]
        own = row[tokens[i]]
        assert found.loss_bits[i - 1] == pytest.approx(-own / np.log(2))
        assert found.entropy_bits[i - 1] == pytest.approx(-sum(np.exp(x) * x for x in row) / np.log(2))
        assert found.rank[i - 1] == 1 + sorted(row, reverse=True).index(own)
    assert sum(heard) == 39


def test_uniform_and_certain_predictions() -> None:
    """Of 8 equally likely symbols each has 3 bits and the first rank; what is certain has none."""
    uniform = expectations(Bigram(np.full((8, 8), -np.log(8))), np.array([0, 5, 7]))
    assert uniform.entropy_bits == pytest.approx([3, 3])
    assert uniform.loss_bits == pytest.approx([3, 3])
    assert uniform.rank.tolist() == [1, 1]
    certain = np.where(np.eye(8), 0.0, -np.inf)
    found = expectations(Bigram(certain), np.array([5, 5]))
    assert (found.entropy_bits[0], found.loss_bits[0], found.rank[0]) == (0, 0, 1)


def test_analysis(rng: np.random.Generator, tmp_path: Path) -> None:
    """Bytes that are no UTF-8, controls and letters that no font has are shown safely."""
    text = "Die Bären\n\t\x1b[2J \U0001f43b 熊".encode() + b"\xff\x00" + b" more text" * 20
    tokens = np.frombuffer(text, dtype=np.uint8)
    found = expectations(Bigram(random_table(rng, 256)), tokens)
    symbols = [bytes([value]) for value in text]
    saved = analyze_seed_text(Subject("small", "/runs/small", 5), symbols, found, {"text_sha256": "0"}).save(tmp_path)
    assert read_analysis(saved.json) == saved
    check_picture(saved.figure)
    lines = saved.csv.read_text().splitlines()
    assert len(lines) == len(text)
    shown = [line.split(",")[1] for line in lines[1:15]]
    assert shown == [*"ie B", "\\xc3", "\\xa4", *"ren", "\\n", "\\t", "\\x1b", *"[2"]
    hardest = np.argsort(-found.loss_bits, kind="stable")[:10] + 1
    assert [row[0] for row in saved.table.rows] == hardest.tolist()
    assert all("\x1b" not in str(row[1]) and "\n" not in str(row[1]) for row in saved.table.rows)


def test_symbols_of_several_characters(rng: np.random.Generator, tmp_path: Path) -> None:
    symbols = [b"the", b" quick", b" br", b"own", " fü".encode(), b""]
    found = expectations(Bigram(random_table(rng, 6)), np.arange(6))
    saved = analyze_seed_text(Subject("small", "/runs/small", 5), symbols, found, {}).save(tmp_path)
    check_picture(saved.figure)
    assert {row[2] for row in saved.table.rows} == {" quick", " br", "own", " fü", ""}


@pytest.mark.parametrize("size", [0, 1])
def test_nothing_to_predict(size: int) -> None:
    with pytest.raises(DataError, match=rf"has {size} symbols, and the first is predicted from nothing; give two"):
        check_text(size)
