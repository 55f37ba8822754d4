"""`megachar analyze` as a user calls it: each analysis on small models of both families, and what is refused."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from megachar.analysis.models import find_models
from megachar.analysis.result import FOLDER, SavedAnalysis, read_analysis
from megachar.base.errors import CheckpointError, ConfigError, DataError, MegacharError
from megachar.cli import app
from megachar.data.characters import CharacterVocabulary
from megachar.data.corpus import Corpus
from megachar.data.pieces import PieceVocabulary
from megachar.families.recurrent.model import RecurrentModel
from megachar.runs.checkpoints.reading import load_model
from tests.analysis.conftest import TEXT, MakeCorpus, MakeRun

SENTENCE = ["--text", TEXT[:82].decode()]


def invoke(*arguments: Any) -> str:
    """What the command prints on stdout; its error is raised."""
    outcome = CliRunner().invoke(app, ["analyze", *map(str, arguments)], env={"COLUMNS": "250"})
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


def analyze(*arguments: Any) -> SavedAnalysis:
    """The result of a command that saves where its last line says."""
    output = invoke(*arguments)
    saved = read_analysis(Path(output.splitlines()[-1].removeprefix("saved ")))
    for shown in (saved.title, saved.how_to_read, str(saved.csv), str(saved.figure), *saved.table.texts()[-1]):
        assert shown in " ".join(output.split()), f"{shown} is not in {output}"
    return saved


def rows_of(saved: SavedAnalysis) -> list[list[str]]:
    with saved.csv.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@torch.no_grad()
def rows_before(run: Path, tokens: Any) -> list[Any]:
    """Log-probabilities (v,) of each symbol but the first, from all that the model can use before it."""
    model, tokens = load_model(run).model, [int(token) for token in tokens]
    if isinstance(model, RecurrentModel):
        logits, _ = model(torch.tensor([tokens[:-1]]), model.new_state(1))
        return list(logits[0].log_softmax(-1).double().numpy())
    inputs = [torch.tensor([tokens[max(0, i - 16) : i]]) for i in range(1, len(tokens))]
    return [model(text)[0, -1].log_softmax(-1).double().numpy() for text in inputs]


@pytest.mark.parametrize("family", ["transformer", "recurrent"])
def test_seed_text(make_run: MakeRun, tmp_path: Path, family: str) -> None:
    run = make_run("small", tmp_path, family)
    (tmp_path / "text").write_bytes(b"caf\xc3\xa9 \xff and all that was there")
    saved = analyze("seed-text", run, "--file", tmp_path / "text", "--device", "cpu", "--batch-size", 3)
    text = (tmp_path / "text").read_bytes()
    assert saved.json.parent == run / "analyses"
    assert saved.subjects[0].step == 70
    for number, (row, predicted) in enumerate(zip(rows_of(saved)[1:], rows_before(run, text), strict=True), start=1):
        own = predicted[text[number]]
        assert float(row[3]) == pytest.approx(-own / np.log(2), rel=1e-4)
        assert int(row[4]) == 1 + int((predicted > own).sum())
    assert rows_of(saved)[6][1] == "\\xff"


def test_surprise(make_run: MakeRun, make_corpus: MakeCorpus) -> None:
    corpus = make_corpus()
    runs = [make_run("small", corpus), make_run("mlstm", corpus, "recurrent")]
    saved = analyze("surprise", *runs, "--block", 50, "--resamples", 200, "--stride", 1, "--max-characters", 800)
    tokens = Corpus.open(corpus).split("valid").tokens[:800]
    losses = []
    for run in runs:
        rows = rows_before(run, tokens)
        losses.append(np.array([-row[token] for row, token in zip(rows, tokens[1:], strict=True)]) / np.log(2))
    hardest = np.argsort(-(losses[0] + losses[1]))[:79]
    after = hardest[hardest + 2 < 799] + 2
    assert saved.split == "valid"
    row = next(row for row in rows_of(saved) if row[0] == "2")
    assert [float(row[2]), float(row[5])] == pytest.approx([loss[after].mean() for loss in losses], rel=1e-4)
    assert saved.settings["corpus"] == Corpus.open(corpus).fingerprint


def test_context(make_run: MakeRun, make_corpus: MakeCorpus, tmp_path: Path) -> None:
    corpus = make_corpus()
    runs = [make_run("small", corpus), make_run("mlstm", corpus, "recurrent")]
    output = tmp_path / "results" / "context"
    saved = analyze("context", *runs, "--lengths", "4,16", "--stride", 1, "--max-characters", 100, "--output", output)
    assert saved.json.parent == output
    assert not (runs[0] / "analyses").exists()
    tokens = Corpus.open(corpus).split("valid").tokens[:100]
    full = [np.mean([-row[t] for row, t in list(zip(rows_before(run, tokens), tokens[1:], strict=True))[15:]])
            for run in runs]  # fmt: skip
    (four, sixteen, all_before) = saved.table.rows
    assert four[0] == 4
    assert sixteen[1] == pytest.approx(full[0] / np.log(2), rel=1e-4)
    assert all_before[0] == "all before"
    assert all_before[1] is None
    assert all_before[2] == pytest.approx(full[1] / np.log(2), rel=1e-4)


def test_completions(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("small", tmp_path)
    (tmp_path / "words").write_text("wood\n\nbear\r\n")
    saved = analyze("completions", run, "--prompt", "lost in a ", "--word", "é", "--words-file", tmp_path / "words")
    assert {str(row[0]) for row in saved.table.rows} == {"é", "wood", "bear"}
    text = b"lost in a wood "
    rows = rows_before(run, text)
    spelled = sum(rows[i - 1][text[i]] for i in range(10, 14))
    ended = sum(np.exp(rows[13][symbol]) for symbol in range(128) if not chr(symbol).isalnum())
    wood = next(float(row[1]) for row in rows_of(saved) if row[0] == "wood")
    assert wood == pytest.approx(np.exp(spelled) * ended, rel=1e-4)


def test_copy(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("small", tmp_path), make_run("mlstm", tmp_path, "recurrent")]
    saved = analyze("copy", *runs, *SENTENCE, "--name", "Ann", "--invented", "Mxyzptlk")
    text = SENTENCE[1].encode().replace(b"Ann", b"Mxyzptlk")
    for label, run in (("small", runs[0]), ("mlstm", runs[1])):
        rows, start = rows_before(run, text), text.rindex(b"Mxyzptlk")
        bits = -np.mean([rows[i - 1][text[i]] for i in range(start, start + 8)]) / np.log(2)
        last = [row for row in rows_of(saved) if row[:3] == [label, "Mxyzptlk", "3"]]
        assert [float(value) for value in last[0][3:]] == pytest.approx([start - 7, bits], rel=1e-4)


def test_layers(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("small", tmp_path)
    records = [
        {"kind": "train", "step": s, "bits_per_character": 2.0 / s, "layers": [[3.0 / s, None], [2.0 / s, 1.0]]}
        for s in (10, 20)
    ]
    records[1]["layers"][0] = [None, None]
    for record in records:
        record["layers"][0][1] = record["layers"][0][0]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    saved = analyze("layers", run)
    assert saved.table.rows[0][:3] == (1, 10, 0.3)
    with pytest.raises(ConfigError, match=r"mlstm was trained without intermediate classifiers"):
        invoke("layers", make_run("mlstm", tmp_path, "recurrent"))


def test_checkpoints_of_one_run(make_run: MakeRun, tmp_path: Path) -> None:
    """A checkpoint's folder and its run; the results of both are found in the run."""
    run = make_run("small", tmp_path)
    checkpoint = run / "checkpoints" / "step-00000070"
    for source in (run, checkpoint):
        invoke("seed-text", source, *SENTENCE)
    assert {saved.subjects[0].label for saved in map(read_analysis, (run / FOLDER).glob("*.json"))} == {
        "small",
        "small@70",
    }


@pytest.mark.parametrize("name", ["characters", "sentencepiece"])
def test_other_vocabularies(make_run: MakeRun, make_corpus: MakeCorpus, name: str) -> None:
    text = TEXT + "Mxyzptlk zwölf".encode()
    learned: Any = CharacterVocabulary.learn([(text, str)], None, bytes_for_others=False)
    vocabulary = learned if name == "characters" else PieceVocabulary.train([(text, str)], 300, "bpe")
    run = make_run("small", make_corpus(vocabulary), vocabulary_size=vocabulary.size)
    analyze("seed-text", run, "--text", "zwölf bear numbers")
    unit = "character" if name == "characters" else "token"
    context = analyze("context", run, "--lengths", "4,8", "--max-characters", 60)
    assert context.title.startswith(f"Bits per {unit} of 52 {unit}s of valid")
    checkpoint = run / "checkpoints" / "step-00000070"
    surprise = analyze("surprise", run, checkpoint, "--block", 20, "--resamples", 100)
    assert surprise.table.columns[1].name == f"{unit}s"
    names = ["--text", TEXT[:82].decode(), "--name", "Ann", "--invented", "zwölf"]
    words = ["--prompt", "in a ", "--word", "wood"]
    if name == "characters":
        analyze("copy", run, *names)
        analyze("completions", run, *words)
        return
    with pytest.raises(DataError, match=r"pieces cut a word .* so the loss of a name is not defined"):
        invoke("copy", run, *names)
    with pytest.raises(DataError, match=r"so the probability of a word is not defined; name a run on bytes or"):
        invoke("completions", run, *words)


def test_vocabularies_that_differ(make_run: MakeRun, make_corpus: MakeCorpus) -> None:
    letters = [CharacterVocabulary.learn([(TEXT + more, str)], None, False) for more in (b"x", b"z")]
    corpora = [make_corpus(vocabulary, vocabulary.symbols[-1]) for vocabulary in letters]
    runs = [make_run(corpus.name, corpus, vocabulary_size=letters[0].size) for corpus in corpora]
    options = ["--lengths", "8", "--max-characters", 60]
    with pytest.raises(DataError, match=r"z has a vocabulary of as many symbols as the first run, but others"):
        invoke("context", *runs, *options)
    invoke("context", *runs, *options, "--data", corpora[0])
    runs.append(make_run("bytes", corpora[0]))
    with pytest.raises(
        ConfigError, match=r"vocabularies differ \(symbols: x \d+, z \d+, bytes 256\); name runs on the"
    ):
        invoke("context", *runs, *options)


@pytest.mark.parametrize(("arguments", "error", "message"), [
    (["surprise", "--block", 2000], ConfigError, r"has 0 blocks of 2,000, too few for intervals"),
    (["surprise", "--max-characters", 1], ConfigError, r"--max-characters 1: nothing would be scored; set 2 or more"),
    (["surprise", "--stride", 17], ConfigError, r"stride = 17 is more than the model's context of 16"),
    (["surprise", "--device", "tpu"], ConfigError, r"device = 'tpu' is unknown"),
    (["surprise", "--batch-size", 0], ConfigError, r"batch size = 0: a batch needs a window"),
    (["surprise", "--split", "dev"], DataError, r"has no split 'dev'"),
    (["context", "--lengths", "4,x"], ConfigError, r"--lengths 4,x are no whole numbers between commas; give such as"),
    (["context"], ConfigError, r"a context of 512 characters is more than the transformer small can .* --lengths 16$"),
    (["context", "--lengths", "4,8", "--stride", 5], ConfigError, r"stride = 5 is more than .* context of 4"),
    (["seed-text"], ConfigError, r"give --text TEXT or --file FILE; neither of them was given"),
    (["seed-text", "--text", "a", "--file", "b"], ConfigError, r"give --text TEXT or --file FILE; both was given"),
    (["seed-text", "--text", ""], ConfigError, r"the text is empty; give one of some characters"),
    (["seed-text", "--text", "a"], DataError, r"the text has 1 symbols"),
    (["seed-text", "--file", "/absent"], ConfigError, r"--file /absent cannot be read: No such file"),
    (["completions", "--prompt", "a"], ConfigError, r"no words are given"),
    (["completions", "--prompt", "a", "--words-file", "/absent"], ConfigError, r"--words-file /absent cannot be read"),
    (["completions", "--word", "a"], ConfigError, r"give --prompt TEXT or --prompt-file FILE; neither"),
    (["copy", *SENTENCE, "--name", "Bob", "--invented", "Ann"], ConfigError, r"has 'Bob' as a word of its own 0 times"),
    (["layers", "--records", "test"], ConfigError, r"--records test is unknown"),
    (["layers"], DataError, r"metrics\.jsonl holds no train record yet"),
])  # fmt: skip
def test_errors(
    make_run: MakeRun, make_corpus: MakeCorpus, arguments: list[Any], error: type[MegacharError], message: str
) -> None:
    corpus = make_corpus()
    runs = [make_run("small", corpus)]
    if arguments[0] == "surprise":
        runs.append(make_run("other", corpus))
    with pytest.raises(error, match=message):
        invoke(arguments[0], *runs, *arguments[1:])
    assert not list(runs[0].glob("analyses/*"))


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_model_that_diverged(make_run: MakeRun, make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("small", make_corpus())
    loaded = load_model(run)
    loaded.model.get_parameter("head.norm.weight").data.fill_(float("nan"))
    monkeypatch.setattr("megachar.runs.checkpoints.reading.load_model", lambda *_: loaded)
    commands: list[list[Any]] = [
        ["seed-text", run, *SENTENCE],
        ["context", run, "--lengths", "4", "--max-characters", 40],
        ["copy", run, *SENTENCE, "--name", "Ann", "--invented", "Bob"],
        ["completions", run, "--prompt", "a", "--word", "b"],
    ]
    for command in commands:
        with pytest.raises(CheckpointError, match=r"small: the loss at step 70 is not finite everywhere: .* diverged"):
            invoke(*command)


@pytest.mark.parametrize(("stride", "streams"), [(1, 1), (None, 32), (5, 32)])
def test_a_stride_of_1_is_exact_for_both_families(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int | None, streams: int
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("megachar.evaluation.predictor.Predictor", lambda *_, **options: asked.update(options))
    find_models([make_run("mlstm", tmp_path, "recurrent")])[0].load("cpu", stride, 8)
    assert asked == {"stride": stride, "batch_size": 8, "streams": streams}


def test_errors_come_before_torch(make_run: MakeRun, make_corpus: MakeCorpus) -> None:
    run = make_run("small", make_corpus())
    code = f"""
import sys
from megachar.cli import app
from megachar.base.errors import MegacharError
for arguments in (["context", {str(run)!r}], ["seed-text", {str(run)!r}], ["layers", {str(run)!r}, "--records", "x"]):
    try:
        app(["analyze", *arguments])
    except MegacharError as error:
        print(type(error).__name__, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ConfigError", "False"] * 3, done.stderr


def test_threads_are_those_that_are_asked_for(
    make_run: MakeRun, make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what suits the model, which for a small one is a single thread."""
    asked = list[int]()
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run = make_run("small", make_corpus())
    invoke("seed-text", run, *SENTENCE, "--threads", 3)
    invoke("seed-text", run, *SENTENCE)
    assert asked == [3, 1]
