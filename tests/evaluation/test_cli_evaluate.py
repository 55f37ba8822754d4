"""`megachar evaluate` as a user calls it: what it shows and saves, and what it refuses before importing torch."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from megachar.base.errors import ConfigError, DataError
from megachar.base.units import word_perplexity
from megachar.cli.evaluate import evaluate
from megachar.data.characters import CharacterVocabulary
from megachar.data.corpus import Corpus
from megachar.data.pieces import PieceVocabulary
from megachar.data.vocabulary import Vocabulary
from megachar.evaluation.progress import show_progress
from tests.evaluation.conftest import MakeRun


def invoke(*arguments: Any) -> str:
    """What the command prints on stdout; its error is raised."""
    app = typer.Typer()
    app.command()(evaluate)
    outcome = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


def corpus_of(run: Path) -> Path:
    return run.parent.parent / "corpus"


def test_whole_split(run: Path) -> None:
    output = invoke(run, "--split", "test")
    saved = json.loads((run / "evaluation-test-stride4-step70.json").read_text())
    corpus = Corpus.open(corpus_of(run))
    card = corpus.card.splits["test"]
    assert saved["num_characters"] == card.num_tokens
    assert saved["word_perplexity"] == word_perplexity(saved["bits_per_character"], card.num_bytes, card.num_words)
    assert saved["bits_per_character"] == pytest.approx(saved["nats"] / np.log(2) / card.num_tokens)
    assert saved["corpus"] == corpus.fingerprint
    assert {"split": "test", "step": 70, "stride": 4, "context": 32, "whole_split": True}.items() <= saved.items()
    for shown in ("test", "step 70", "32 characters", "a stride of 4: each from at least 29; the paper's is 1",
                  "word perplexity", f"{card.num_tokens} characters",
                  f"{saved['bits_per_character']:.4f}"):  # fmt: skip
        assert shown in output
    assert "\x1b" not in output
    assert not list(run.glob(".*tmp"))


def test_part_of_a_split_at_the_papers_stride(run: Path, tmp_path: Path) -> None:
    output = invoke(run, "--stride", 1, "--step", 20, "--max-characters", 50, "--json", tmp_path / "copy.json")
    saved = json.loads((run / "evaluation-valid-stride1-step20-first50.json").read_text())
    assert saved["num_characters"] == 50
    assert "word_perplexity" not in saved
    assert json.loads((tmp_path / "copy.json").read_text()) == saved
    assert "a stride of 1: each from the whole context (the paper's protocol)" in output
    assert "50 characters (the first of the split)" in output


@pytest.mark.parametrize("name", ["characters", "fallback", "sentencepiece"])
def test_figures_per_byte_and_word(make_run: MakeRun, name: str) -> None:
    """Tokens of several bytes, or bytes of a character, counted apart by decoding, and words by splitting."""
    text = "zwölf große Bären\nsahen dächsen zu \n".encode() * 30
    vocabulary: Vocabulary
    if name == "characters":
        vocabulary = CharacterVocabulary.learn([(text, str)], None, bytes_for_others=False)
    elif name == "fallback":  # letters that are not ASCII are two tokens each
        vocabulary = CharacterVocabulary("".join(sorted(set(text.decode()) - set("äöß"))), bytes_for_others=True)
    else:
        vocabulary = PieceVocabulary.train([(text, str)], 280, "bpe")
    run = make_run(text, vocabulary)
    unit = "character" if name == "characters" else "token"
    output = invoke(run)
    saved = json.loads((run / "evaluation-valid-stride4-step70.json").read_text())
    tokens = Corpus.open(corpus_of(run)).split("valid").tokens
    valid = vocabulary.decode(tokens)
    assert (len(valid) > 1.01 * tokens.size) == (name != "fallback")
    assert saved["unit"] == unit
    assert saved[f"bits_per_{unit}"] == pytest.approx(saved["nats"] / np.log(2) / tokens.size)
    assert saved[f"num_{unit}s"] == tokens.size
    num_characters = len(valid.decode())
    assert saved["num_characters"] == num_characters
    assert (num_characters == tokens.size) == (unit == "character")
    assert saved["bits_per_character"] == pytest.approx(saved["nats"] / np.log(2) / num_characters)
    assert saved["num_bytes"] == len(valid)
    assert saved["num_words"] == len(valid.split()) + valid.count(b"\n")
    assert saved["bits_per_byte"] == pytest.approx(saved["nats"] / np.log(2) / len(valid))
    assert saved["word_perplexity"] == pytest.approx(np.exp(saved["nats"] / saved["num_words"]))
    if name != "fallback":  # whose every token is a byte here
        assert f"{saved['bits_per_byte']:.4f} ({len(valid):,} bytes)" in output
    if unit == "token":
        assert f"{saved['bits_per_character']:.4f} ({num_characters:,} characters)" in output
    assert f"bits per {unit} " in output
    assert f" {tokens.size:,} {unit}s" in output
    invoke(run, "--max-characters", 100)
    part = json.loads((run / "evaluation-valid-stride4-step70-first100.json").read_text())
    assert part["num_bytes"] == len(vocabulary.decode(tokens[:100]))
    assert part["bits_per_byte"] == pytest.approx(part["nats"] / np.log(2) / part["num_bytes"])
    assert "word_perplexity" not in part


@pytest.mark.parametrize(("options", "error", "message"), [
    (["--stride", 33], ConfigError, r"stride = 33 is more than the model's context of 32"),
    (["--max-characters", 0], ConfigError, r"--max-characters 0: nothing would be scored; set 1 or more"),
    (["--json", "/absent/x.json"], ConfigError, r"--json /absent/x\.json: the folder /absent does not exist"),
    (["--split", "dev"], DataError, r"has no split 'dev'; it has: train, valid, test"),
    (["--data", "/absent"], DataError, r"no corpus at /absent"),
    (["--device", "tpu"], ConfigError, r"device = 'tpu' is unknown"),
])  # fmt: skip
def test_errors(run: Path, options: list[Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        invoke(run, *options)


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not a run folder"):
        invoke(tmp_path)


def test_no_corpus_named(run: Path) -> None:
    config = run / "resolved.yaml"
    config.write_text(config.read_text().replace(str(corpus_of(run)), "''"))
    with pytest.raises(ConfigError, match=r"names no corpus \(data\.path is empty\).* --data FOLDER"):
        invoke(run)
    invoke(run, "--data", corpus_of(run))


def test_corpus_of_another_vocabulary(run: Path) -> None:
    config = run / "resolved.yaml"
    config.write_text(config.read_text().replace("vocabulary_size: 256", "vocabulary_size: 27"))
    with pytest.raises(DataError, match=r"has 256 symbols, the model 27; name a corpus of .* --data"):
        invoke(run)


def test_errors_come_before_torch(run: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from megachar.cli.evaluate import evaluate
try:
    evaluate(Path({str(run)!r}), split="dev")
except Exception as error:
    print(type(error).__name__, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["DataError", "False"], done.stderr


def test_progress_in_a_log(text: npt.NDArray[np.uint8]) -> None:
    log = io.StringIO()
    with show_progress(Console(file=log, width=40), 200, seconds_between_lines=0.0) as progress:
        for _ in range(4):
            progress(50)
    lines = log.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("scoring: 100 of 200 characters (50%), ")
    assert lines[-1].endswith(" 0 s left")
    with show_progress(Console(file=log), 200) as progress:
        progress(50)
    assert len(log.getvalue().splitlines()) == 4  # nothing before the interval is over


def test_progress_on_a_terminal() -> None:
    screen = io.StringIO()
    with show_progress(Console(file=screen, force_terminal=True, width=120), 200) as progress:
        progress(200)
    assert "200/200" in screen.getvalue()
