"""Probabilities of completing words are those of a slow table, add up to 1, and are refused where they mean nothing."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from megachar.analysis.completions import Completion, analyze_completions, check_words, complete
from megachar.analysis.result import Subject, read_analysis
from megachar.base.errors import ConfigError
from megachar.data.characters import CharacterVocabulary
from megachar.data.vocabulary import ByteVocabulary
from megachar.evaluation.predictor import Predictor
from megachar.families.transformer.model import Transformer
from megachar.families.transformer.settings import TransformerConfig
from tests.analysis.toys import Bigram, random_table
from tests.runs.test_plots import check_picture

LETTERS = CharacterVocabulary("ab .", bytes_for_others=False)


def test_against_the_table(rng: np.random.Generator) -> None:
    p = np.exp(random_table(rng, 4))
    heard: list[int] = []
    (found,) = complete(Bigram(np.log(p)), b"a ", [b"aba"], LETTERS, heard.append)
    spelled = p[2, 0] * p[0, 1] * p[1, 0]
    assert found.spelled == pytest.approx(np.log(spelled))
    assert found.ended == pytest.approx(np.log(p[0, 2] + p[0, 3]))
    assert found.probability == pytest.approx(spelled * (p[0, 2] + p[0, 3]))
    assert heard == [4]


def test_probabilities_of_all_words_add_up(rng: np.random.Generator) -> None:
    """Of all words of 1 to 4 letters: what is left is that none begins, or that one goes on for a fifth letter."""
    p = np.exp(random_table(rng, 4))
    words = ["".join(word).encode() for size in range(1, 5) for word in itertools.product("ab", repeat=size)]
    total = sum(found.probability for found in complete(Bigram(np.log(p)), b".", words, LETTERS))
    longer = p[3, :2] @ np.linalg.matrix_power(p[:2, :2], 4) @ np.ones(2)
    assert total == pytest.approx(1 - (p[3, 2] + p[3, 3]) - longer, abs=1e-6)


@torch.no_grad()
def test_a_transformer_with_a_prompt_longer_than_its_context(seed: int) -> None:
    config = TransformerConfig(num_layers=2, width=8, num_heads=2, feed_forward_width=8, context=8)
    model = Transformer(config, None).double().eval()
    for parameter in model.parameters():
        parameter.normal_(0, 0.5)
    prompt, word = b"some words that are longer than it ", b"bears"
    (found,) = complete(Predictor(model, torch.device("cpu"), stride=1), prompt, [word], ByteVocabulary())
    rows = [model(torch.tensor([list((prompt + word[:i])[-8:])]))[0, -1].log_softmax(-1) for i in range(6)]
    assert found.spelled == pytest.approx(sum(float(rows[i][word[i]]) for i in range(5)), rel=1e-5)
    endings = [value for value in range(128) if not chr(value).isalnum()]
    assert found.ended == pytest.approx(float(rows[5][endings].logsumexp(0)), rel=1e-5)


def test_analysis(tmp_path: Path) -> None:
    words = ["bear", "Bären", "fox"]
    found = [[Completion(np.log(p), np.log(0.5)) for p in ps] for ps in ((0.1, 0.4, 1e-9), (0.3, 0.2, 0.25))]
    subjects = [Subject("a", "/runs/a", 5), Subject("b", "/runs/b", 7)]
    for models in (1, 2):
        analysis = analyze_completions(subjects[:models], b"the \xff\n", words, found[:models], {"words": words})
        saved = analysis.save(tmp_path)
        assert read_analysis(saved.json) == saved
        check_picture(saved.figure)
        assert saved.title == "What follows “the \\xff\\n”"
        assert [row[0] for row in saved.table.rows] == ["Bären", "bear", "fox"]
        assert saved.table.rows[0][1:] == pytest.approx((0.2, 0.1)[:models])
    last = saved.csv.read_text().splitlines()[-1].split(",")
    assert last[0] == "fox"
    assert [float(value) for value in last[4:]] == pytest.approx([0.125, 2, 1])


@pytest.mark.parametrize(("words", "message"), [
    ([], r"no words are given; name some with --word WORD, once for each, or --words-file FILE"),
    (["a", ""], r"word 2 of 2 is empty; leave it out"),
    (["a", "b", "a"], r"the word 'a' is given twice; leave one out"),
])  # fmt: skip
def test_words_that_cannot_be(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_words(words)
