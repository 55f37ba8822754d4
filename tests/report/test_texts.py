"""Texts of a report: which stretch, samples and colors are shown, and settings that are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from megachar.base.errors import CheckpointError, ConfigError
from megachar.data.corpus import Corpus
from megachar.generation.generator import generate
from megachar.generation.sampling import Sampler
from megachar.generation.settings import SamplingSettings
from megachar.report.text_settings import TextSettings
from megachar.report.texts import LEVELS, PROMPT_TOKENS, ModelTexts, level_of, read_with_model
from megachar.runs.checkpoints.reading import load_model
from tests.report.runs import make_corpus, make_experiment, make_run

TEXT = b"The first of some words \xe2\x82\xac, and then others; \xff a byte, " * 6


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus.open(make_corpus(tmp_path / "corpus", TEXT))


def read(run: Path, corpus: Corpus, **more: int) -> ModelTexts:
    return read_with_model(run, corpus, TextSettings(device="cpu", **{"sample_characters": 0, **more}))  # type: ignore[arg-type]


@torch.inference_mode()
def slow_log_probabilities(run: Path, place: int, start: int) -> torch.Tensor:
    """Of the character at `place`, from a pass over what is before it."""
    model = load_model(run).model
    if model.config.family == "recurrent":
        text = torch.tensor([list(TEXT[max(0, start - 1000) : place])])
        return model(text, model.new_state(1))[0][0, -1].log_softmax(-1)
    text = torch.tensor([list(TEXT[max(0, place - model.config.context) : place])])
    return model(text)[0, -1].log_softmax(-1)


@pytest.mark.parametrize("family", ["transformer", "recurrent"])
@pytest.mark.parametrize("start", [0, 3, 40])
def test_colors_and_titles(tmp_path: Path, corpus: Corpus, seed: int, family: str, start: int) -> None:
    run = make_run(tmp_path / "run", make_experiment(corpus.folder, family)).path
    texts = read(run, corpus, start=start, num_characters=25)
    assert texts.step == 40
    stretch = TEXT[start : start + 25]
    assert b"".join(stretch[one.piece.first : one.piece.stop] for one in texts.colored) == stretch
    total = 0.0
    for one in texts.colored:
        bits, names = 0.0, []
        for place in range(start + one.piece.first, start + one.piece.stop):
            row = slow_log_probabilities(run, place, start) if place else torch.full((256,), -np.log(256.0))
            bits -= float(row[TEXT[place]]) / np.log(2)
            names.append(row.topk(1))
        total += bits
        shown, *rest = one.title.split("\n")
        assert float(shown.split()[0]) == pytest.approx(bits, abs=0.006)
        assert one.level == sum(bits >= level for level in LEVELS) or min(abs(bits - level) for level in LEVELS) < 1e-3
        assert rest[0] == f"{one.piece.name}, place {start + one.piece.first:,}"
        if start + one.piece.first:
            likeliest = int(names[0].indices)
            assert f" {float(names[0].values.exp()):.0%}" in rest[1].split(",")[0] or likeliest == ord(",")
        else:
            assert len(rest) == 1
    assert texts.mean_bits == pytest.approx(total / len(stretch), abs=1e-4)


def test_characters_of_several_tokens(tmp_path: Path, corpus: Corpus, seed: int) -> None:
    run = make_run(tmp_path / "run", make_experiment(corpus.folder)).path
    euro = next(one for one in read(run, corpus).colored if one.piece.text == "€")
    parts = euro.title.split("\n")[0].split("(")[1].rstrip(")").split(" + ")
    assert len(parts) == 3
    assert sum(float(part) for part in parts) == pytest.approx(float(euro.title.split()[0]), abs=0.02)


def test_levels() -> None:
    assert [level_of(value) for value in (0.0, 0.24, 0.25, 7.99, 8.0, 99.0)] == [0, 0, 1, 7, 8, 8]


def test_the_stretch_ends_with_the_split(tmp_path: Path, corpus: Corpus, seed: int) -> None:
    run = make_run(tmp_path / "run", make_experiment(corpus.folder)).path
    texts = read(run, corpus, start=len(TEXT) - 5, num_characters=100)
    assert len(texts.colored) == 5
    with pytest.raises(
        ConfigError, match=rf"--text-start {len(TEXT)}: the valid split of .* has {len(TEXT)} .* at most"
    ):
        read(run, corpus, start=len(TEXT))


@pytest.mark.parametrize("family", ["transformer", "recurrent"])
def test_samples(tmp_path: Path, corpus: Corpus, seed: int, family: str) -> None:
    run = make_run(tmp_path / "run", make_experiment(corpus.folder, family)).path
    texts = read(run, corpus, start=2, num_characters=0, sample_characters=90, seed=5)
    assert texts.colored == []
    prompt = list(TEXT[2 : 2 + PROMPT_TOKENS])
    expected = list(generate(load_model(run).model, prompt, 90, Sampler(SamplingSettings(seed=5), 256)))
    assert [piece.first for piece in texts.prompt][-1] < PROMPT_TOKENS <= texts.sample[0].first
    assert texts.sample[-1].stop == PROMPT_TOKENS + 90
    again = read(run, corpus, start=2, num_characters=0, sample_characters=90, seed=5)
    assert again == texts or again.sample == texts.sample
    ascii_only = [(chr(token), place) for place, token in enumerate(expected, PROMPT_TOKENS) if 32 < token < 127]
    shown = {piece.first: piece.text for piece in texts.sample}
    assert ascii_only
    assert all(shown[place] == character for character, place in ascii_only)


def test_no_checkpoint(tmp_path: Path, corpus: Corpus, seed: int) -> None:
    run = make_run(tmp_path / "run", make_experiment(corpus.folder))
    (run.checkpoints / "step-00000040" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="has no whole checkpoint yet"):
        read(run.path, corpus)


@pytest.mark.parametrize(("settings", "message"), [
    ({"start": -1}, r"--text-start -1 is below 0; set 0 or more"),
    ({"num_characters": -1}, r"--text-characters -1 is below 0"),
    ({"sample_characters": -2}, r"--characters -2 is below 0"),
    ({"seed": -1}, r"seed = -1 is not from 0 to"),
])  # fmt: skip
def test_settings_out_of_range(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TextSettings(**settings).check()  # type: ignore[arg-type]


def test_threads_are_those_that_are_asked_for(tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what suits the model, which for a small one is a single thread."""
    asked = list[int]()
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run = make_run(tmp_path / "run", make_experiment(corpus.folder))
    for threads, expected in (({"threads": 2}, [2, 2]), ({}, [1, 1])):
        asked.clear()
        read(run.path, corpus, num_characters=9, sample_characters=5, **threads)
        assert asked == expected
