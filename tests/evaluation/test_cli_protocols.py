"""`megachar evaluate` on recurrent models, dynamically, and by position: what is refused, shown and saved."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from megachar.base.errors import ConfigError, DataError
from megachar.base.units import NATS_PER_BIT, word_perplexity
from megachar.config.loading import load_experiment, save_experiment
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.corpus import Corpus
from megachar.data.vocabulary import ByteVocabulary
from megachar.evaluation.evaluate import evaluate, evaluate_dynamically, training_mean_squares
from megachar.evaluation.predictor import Predictor
from megachar.evaluation.result import DynamicEvaluation
from megachar.evaluation.settings import DynamicSettings, StreamSettings, WindowSettings
from megachar.families.recurrent.initialization import initialize
from megachar.families.recurrent.model import RecurrentModel
from megachar.families.recurrent.settings import RecurrentConfig
from megachar.runs.checkpoints import reading
from megachar.runs.folder import RunFolder
from tests.evaluation.conftest import MakeRun
from tests.evaluation.test_cli_evaluate import corpus_of, invoke
from tests.runs.checkpoints_by_hand import write_checkpoint

CPU = torch.device("cpu")


def saved(run: Path, name: str) -> Any:
    return json.loads((run / f"{name}.json").read_text())


def tokens_of(run: Path, split: str) -> npt.NDArray[Any]:
    return np.asarray(Corpus.open(corpus_of(run)).split(split).tokens)


def model_of(run: Path) -> Any:
    return reading.load_model(run).model


def test_streams_of_a_recurrent_model(recurrent_run: Path) -> None:
    output = invoke(recurrent_run, "--streams", 3, "--warm-up", 20)
    values = saved(recurrent_run, "evaluation-valid-streams3-warmup20-step70")
    tokens = tokens_of(recurrent_run, "valid")
    expected = Predictor(model_of(recurrent_run), CPU, streams=3, warm_up=20).nats(tokens)
    assert values["nats"] == math.fsum(expected)
    assert {"streams": 3, "warm_up": 20, "context": None, "state": "carried on", "dynamic": None,
            "num_characters": tokens.size}.items() <= values.items()  # fmt: skip
    assert values["protocol"] == "static, state carried on over 3 streams side by side, with a warm-up of 20"
    assert "3 streams with their state carried on, after 20 characters of warm-up" in output
    card = Corpus.open(corpus_of(recurrent_run)).card.splits["valid"]
    assert values["word_perplexity"] == word_perplexity(values["bits_per_byte"], card.num_bytes, card.num_words)


def test_one_stream_is_what_a_short_text_gets(recurrent_run: Path) -> None:
    """The defaults, 32 and 1000, are more than 240 characters have room for: the file says what was done."""
    output = invoke(recurrent_run)
    values = saved(recurrent_run, "evaluation-valid-streams1-step70")
    tokens = torch.tensor(tokens_of(recurrent_run, "valid").astype(np.int64))[None]
    with torch.no_grad():
        model = model_of(recurrent_run)
        nats, _ = model.nats(tokens[:, :-1], tokens[:, 1:], model.new_state(1))
    assert values["nats"] == pytest.approx(float(nats) + math.log(256), rel=1e-5)
    assert (values["streams"], values["warm_up"]) == (1, 0)
    assert "the whole text with its state carried on (the paper's protocol)" in output
    invoke(recurrent_run, "--streams", 1, "--max-characters", 60, "--precision", "bf16")
    assert saved(recurrent_run, "evaluation-valid-streams1-step70-first60-bf16")["num_characters"] == 60


@pytest.mark.parametrize("rule", ["sgd", "rms"])
def test_dynamic_beside_static(recurrent_run: Path, rule: str, tmp_path: Path) -> None:
    given = ["--learning-rate", 0.001, "--decay", 0.1, "--segment-length", 9, "--dynamic-streams", 2]
    statistics = ["--statistics", 50, "--epsilon", 0.01] if rule == "rms" else []
    output = invoke(recurrent_run, "--dynamic", rule, *given, *statistics, "--json", tmp_path / "copy.json")
    rms = "-epsilon0.01-statistics50" if rule == "rms" else ""
    name = f"evaluation-valid-streams1-step70-dynamic-{rule}-rate0.001-decay0.1{rms}-segment9-streams2"
    both, alone = saved(recurrent_run, name), saved(recurrent_run, "evaluation-valid-streams1-step70")
    assert json.loads((tmp_path / "copy.json").read_text()) == both
    dynamic = both.pop("dynamic")
    assert alone.pop("dynamic") is None
    assert both == alone  # the static figure is the static one, and stands beside
    settings = DynamicSettings(rule, 0.001, 0.1, 0.01, 9, 2, 50)  # type: ignore[arg-type]
    model, tokens = model_of(recurrent_run), tokens_of(recurrent_run, "valid")
    squares = training_mean_squares(model, tokens_of(recurrent_run, "train"), settings, "cpu")
    expected = evaluate_dynamically(model, tokens, settings, "cpu", mean_squares=squares)
    assert dynamic["nats"] == expected.nats != both["nats"]
    assert dynamic["bits_per_byte"] == pytest.approx(expected.nats / NATS_PER_BIT / tokens.size)
    assert dynamic["word_perplexity"] == pytest.approx(math.exp(expected.nats / both["num_words"]))
    assert {"rule": rule, "learning_rate": 0.001, "decay": 0.1, "segment_length": 9, "streams": 2}.items() <= (
        dynamic.items()
    )
    assert ("statistics" in dynamic) == (rule == "rms")
    assert dynamic["protocol"].startswith(f"dynamic, a step ({rule}, learning rate 0.001, decay 0.1")
    for shown in ("static", "dynamic", "as trained", f"a step of {rule} after every 9 characters",
                  "in 2 parts side by side, each from nothing", f"{both['bits_per_character']:.4f}",
                  f"{dynamic['bits_per_character']:.4f}"):  # fmt: skip
        assert shown in " ".join(output.split()), shown


def test_dynamic_evaluation_of_a_transformer_has_the_static_stride(run: Path) -> None:
    output = invoke(run, "--dynamic", "sgd", "--stride", 8, "--learning-rate", 0.01, "--decay", 0)
    values = saved(run, "evaluation-valid-stride8-step70-dynamic-sgd-rate0.01-decay0-segment8")
    model, tokens = model_of(run), tokens_of(run, "valid")
    assert values["nats"] == evaluate(model, tokens, WindowSettings(8, device="cpu")).nats
    settings = DynamicSettings("sgd", 0.01, 0.0, segment_length=8)
    assert values["dynamic"]["nats"] == evaluate_dynamically(model, tokens, settings, "cpu").nats
    assert "windows with a stride of 8" in output


def test_statistics_of_a_short_train_split_are_all_of_it(run: Path) -> None:
    invoke(run, "--dynamic", "rms", "--learning-rate", 1e-5)
    size = tokens_of(run, "train").size
    (file,) = run.glob(f"evaluation-valid-stride4-step70-dynamic-rms-rate1e-05-*-statistics{size}-segment4.json")
    assert json.loads(file.read_text())["dynamic"]["statistics"] == size


def test_another_corpus_replaces_no_result(run: Path, tmp_path: Path) -> None:
    """Corpora are told apart by what they hold, whatever their folders are called."""
    invoke(run)
    before = saved(run, "evaluation-valid-stride4-step70")
    folders = [tmp_path / name / "corpus" for name in "ab"]
    for number, folder in enumerate(folders):
        (tmp_path / "text").write_bytes(bytes(range(97 + number, 117)) * 20)
        prepare_corpus(cut_by_position(tmp_path / "text", "60,40,0"), folder, ByteVocabulary())
        invoke(run, "--data", folder, "--by-position")
    corpora = [Corpus.open(folder) for folder in folders]
    for corpus in corpora:
        label = f"valid-of-corpus-{corpus.fingerprint[:8]}"
        found = saved(run, f"evaluation-{label}-stride4-step70")
        assert (found["corpus"], found["corpus_folder"]) == (corpus.fingerprint, str(corpus.folder))
        assert found["num_characters"] == corpus.split("valid").tokens.size
        assert (run / f"positions-{label}-step70.csv").is_file()
    assert corpora[0].fingerprint != corpora[1].fingerprint
    assert saved(run, "evaluation-valid-stride4-step70") == before


def test_settings_that_differ_late_have_other_names() -> None:
    labels = {DynamicEvaluation(2, 1.0, 1.0, DynamicSettings("sgd", rate, 0.1), None).label
              for rate in (0.001, 0.00100000001, 0.1234567, 0.1234568)}  # fmt: skip
    assert len(labels) == 4
    assert "-sgd-rate0.001-decay0.1-segment20" in labels


@pytest.mark.parametrize("family", ["transformer", "recurrent"])
def test_by_position(make_run: MakeRun, text: npt.NDArray[np.uint8], family: str) -> None:
    run = make_run(text.tobytes() * 3, ByteVocabulary(), family)
    output = invoke(run, "--by-position", "--format", "svg")
    with (run / "positions-valid-step70.csv").open() as file:
        rows = list(csv.DictReader(file))
    model, tokens = model_of(run), tokens_of(run, "valid")
    length = 32 if family == "transformer" else tokens.size - 1  # less than 1024
    settings = WindowSettings(length, device="cpu") if family == "transformer" else StreamSettings(1, device="cpu")
    total = evaluate(model, tokens, settings).nats - math.log(256)
    assert sum(int(row["count"]) for row in rows) == tokens.size - 1
    assert sum(int(row["count"]) * float(row["bits"]) for row in rows) == pytest.approx(total / NATS_PER_BIT, rel=1e-6)
    assert (int(rows[0]["first"]), int(rows[-1]["last"])) == (1, length)
    picture = (run / "positions-valid-step70.svg").read_text()
    assert "on of 4 bins to each doubling; bars: two standard errors." in picture
    since = "the window began" if family == "transformer" else "the state was zero"
    assert f"how to read it: bits of characters by how many are before them since {since}" in " ".join(output.split())


@pytest.mark.parametrize(("options", "message"), [
    (["--streams", 4], r"--streams 4: a transformer carries nothing on and reads windows; leave it out, or set --str"),
    (["--warm-up", 4], r"--warm-up 4: a transformer carries nothing on"),
    (["--dynamic", "rms", "--segment-length", 4], r"--segment-length 4: a transformer learns after every stride; set"),
    (["--decay", 0.1], r"--decay 0\.1: it belongs to dynamic evaluation; add --dynamic rms, or leave it out"),
    (["--dynamic-streams", 2], r"--dynamic-streams 2: it belongs to dynamic evaluation"),
    (["--learning-rate", 0.1], r"--learning-rate 0\.1: it belongs to dynamic evaluation"),
    (["--epsilon", 0.1], r"--epsilon 0\.1: it belongs to dynamic evaluation"),
    (["--statistics", 9], r"--statistics 9: it belongs to dynamic evaluation"),
    (["--dynamic", "adam"], r"--dynamic adam is unknown; set sgd or rms"),
    (["--dynamic", "sgd", "--epsilon", 0.1], r"--epsilon 0\.1: sgd divides by no mean squares; leave it out, or set"),
    (["--dynamic", "sgd", "--statistics", 9], r"--statistics 9: sgd divides by no mean squares"),
    (["--dynamic", "rms", "--precision", "bf16"], r"--precision bf16: the weights follow the text in fp32 only; leave"),
    (["--by-position", "--max-characters", 1], r"--by-position: a text of 1 character has none with another before"),
    (["--dynamic", "rms", "--decay", 2], r"decay = 2\.0 of dynamic evaluation is no share"),
])  # fmt: skip
def test_options_of_a_transformer(run: Path, options: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        invoke(run, *options)


@pytest.mark.parametrize(("options", "message"), [
    (["--stride", 4], r"--stride 4: a recurrent model carries its state on and has no windows; leave .* --streams"),
    (["--batch-size", 4], r"--batch-size 4: a recurrent model carries its state on"),
    (["--processes", 2], r"--processes 2: a recurrent model reads its streams in one process; leave it out"),
    (["--segment-length", 4], r"--segment-length 4: it belongs to dynamic evaluation; add --dynamic rms"),
    (["--dynamic", "sgd", "--segment-length", 0], r"segment length = 0 of dynamic evaluation is no text"),
    (["--streams", 0], r"streams = 0: nothing would be read"),
    (["--warm-up", -1], r"warm-up = -1 is no number of characters"),
    (["--precision", "fp16"], r"precision = 'fp16' is unknown"),
])  # fmt: skip
def test_options_of_a_recurrent_model(recurrent_run: Path, options: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        invoke(recurrent_run, *options)


def test_no_training_text_for_statistics(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = Corpus.split

    def short(corpus: Corpus, name: str) -> Any:
        class Short:
            tokens = split(corpus, name).tokens[:1]

        return Short()

    monkeypatch.setattr(Corpus, "split", short)
    with pytest.raises(DataError, match=r"train split has 1 characters, too few .*--dynamic rms; set --dynamic sgd"):
        invoke(run, "--dynamic", "rms")


def test_checkpoint_of_a_recurrent_model(tmp_path: Path, text: npt.NDArray[np.uint8], seed: int) -> None:
    """From the files of a run to its figures, nothing in memory."""
    (tmp_path / "text").write_bytes(text.tobytes())
    corpus = tmp_path / "corpus"
    prepare_corpus(cut_by_position(tmp_path / "text", "60,40,0"), corpus, ByteVocabulary())
    shapes = ["model.hidden_size=6", "model.embedding_size=3", "model.weight_norm=true", "model.vocabulary_size=256"]
    experiment = load_experiment("mlstm-20m", [*shapes, f"data.path={corpus}"])
    assert isinstance(experiment.model, RecurrentConfig)
    model = initialize(RecurrentModel(experiment.model), seed=seed).eval()
    run = RunFolder(tmp_path / "runs" / "mine")
    run.path.mkdir(parents=True)
    save_experiment(experiment, run.experiment_file)
    write_checkpoint(run, 12, {name: p.detach() for name, p in model.named_parameters()}, experiment)
    invoke(run.path, "--streams", 2, "--warm-up", 9, "--dynamic", "sgd", "--by-position")
    label = f"valid-of-corpus-{Corpus.open(corpus).fingerprint[:8]}"  # the checkpoint says another text
    (file,) = run.path.glob(f"evaluation-{label}-streams2-warmup9-step12-dynamic-sgd-*.json")
    values, tokens = json.loads(file.read_text()), np.asarray(Corpus.open(corpus).split("valid").tokens)
    expected = math.fsum(Predictor(model, CPU, streams=2, warm_up=9).nats(tokens))
    assert values["nats"] == pytest.approx(expected, rel=1e-6)
    assert values["dynamic"]["nats"] == pytest.approx(expected, rel=0.1)
    assert (run.path / f"positions-{label}-step12.png").is_file()
