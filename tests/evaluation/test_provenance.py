"""Another corpus than the one trained on: said before it is scored, and named in the result."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from megachar.cli import app
from megachar.config.loading import save_experiment
from megachar.config.sections.data import DataConfig
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.blend import Blend
from megachar.data.corpus import Corpus
from megachar.data.vocabulary import ByteVocabulary
from megachar.families.transformer.initialization import initialize
from megachar.families.transformer.model import Transformer
from megachar.runs.checkpoints.exporting import export_checkpoint
from megachar.runs.checkpoints.format import find_checkpoint
from megachar.runs.folder import RunFolder
from tests.runs.checkpoints_by_hand import small, write_checkpoint


def prepare(folder: Path, split: str = "60,40,0", more: bytes = b"") -> Corpus:
    """The same text, cut otherwise, or with more of it."""
    folder.mkdir(parents=True)
    (folder / "text").write_bytes(b"as many words as there are in the word\n" * 9 + more)
    prepare_corpus(cut_by_position(folder / "text", split), folder / "corpus", ByteVocabulary())
    return Corpus.open(folder / "corpus")


def make_run(folder: Path, trained_on: Corpus | Blend, data: DataConfig) -> RunFolder:
    """A run that was trained on a corpus, and now names `data`."""
    experiment = small("model.vocabulary_size=256", "parallel.tensor=1").model_copy(update={"data": data})
    model = initialize(Transformer(experiment.model, experiment.auxiliary), seed=1)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    run = RunFolder(folder)
    run.path.mkdir(parents=True)
    save_experiment(experiment, run.experiment_file)
    write_checkpoint(run, 7, weights, experiment, data={"fingerprint": trained_on.fingerprint, "description": "text"})
    return run


def evaluate(source: Path, *options: Any) -> tuple[str, str]:
    """What is shown on stdout and on stderr."""
    arguments = ["evaluate", source, "--device", "cpu", "--threads", 1, *options]
    outcome = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "250"})
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout, outcome.stderr


def result(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def test_a_corpus_that_was_prepared_anew_is_said(tmp_path: Path) -> None:
    """Cut otherwise: text of the split that is scored was trained on."""
    before, now = prepare(tmp_path / "before"), prepare(tmp_path / "now", "40,60,0")
    run = make_run(tmp_path / "run", before, DataConfig(path=str(now.folder)))
    shown, said = evaluate(run.path)
    assert f"{now.fingerprint}) is not what the model was trained on, text ({before.fingerprint}); if it holds" in said
    assert f"({now.fingerprint}), not the one trained on" in shown
    values = result(run.path, f"evaluation-valid-of-corpus-{now.fingerprint[:8]}-stride1-step7")
    assert values["is_training_corpus"] is False
    assert values["corpus"] == now.fingerprint
    assert values["trained_on"] == {"fingerprint": before.fingerprint, "description": "text"}


@pytest.mark.parametrize("named", [False, True])
def test_the_corpus_trained_on_is_known_wherever_it_lies(tmp_path: Path, named: bool) -> None:
    corpus = prepare(tmp_path / "before")
    run = make_run(tmp_path / "run", corpus, DataConfig(path=str(corpus.folder)))
    file = tmp_path / "exported.safetensors"
    export_checkpoint(find_checkpoint(run), file, "inference")
    moved = corpus.folder.rename(tmp_path / "elsewhere") if named else corpus.folder
    for source in (run.path, file):
        shown, said = evaluate(source, *(["--data", moved] if named else []))
        assert "trained on" not in shown
        assert "note" not in said
    assert result(run.path, "evaluation-valid-stride1-step7")["is_training_corpus"] is True
    assert result(tmp_path, "exported.evaluation-valid-stride1-step7")["is_training_corpus"] is True


def test_parts_of_a_blend(tmp_path: Path) -> None:
    corpora = [prepare(tmp_path / name, more=name.encode()) for name in ("one", "two", "other")]
    folders = [str(corpus.folder) for corpus in corpora]
    data = DataConfig.model_validate({"blend": [{"path": path, "weight": 1.0} for path in folders[:2]]})
    run = make_run(tmp_path / "run", Blend.open(data), data)
    for folder, said in zip(folders, (False, False, True), strict=True):
        assert ("is not what the model was trained on" in evaluate(run.path, "--data", folder)[1]) == said
    corpora[1].folder.rename(tmp_path / "gone")  # what the blend was cannot be told any more
    shown, said = evaluate(run.path, "--data", folders[0])
    assert "trained on" not in shown + said
    label = f"valid-of-corpus-{corpora[0].fingerprint[:8]}"
    assert result(run.path, f"evaluation-{label}-stride1-step7")["is_training_corpus"] is None


def test_analyses_say_it_too(tmp_path: Path) -> None:
    before, now = prepare(tmp_path / "before"), prepare(tmp_path / "now", "40,60,0")
    run = make_run(tmp_path / "run", before, DataConfig(path=str(now.folder)))
    arguments = ["analyze", "context", run.path, "--lengths", "2,4", "--device", "cpu"]
    outcome = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert outcome.exit_code == 0, outcome.output
    assert "is not what the model was trained on" in outcome.stderr
    (file,) = run.path.glob("analyses/context-*.json")
    settings = json.loads(file.read_text())["settings"]
    assert (settings["corpus"], settings["trained_on_another"]) == (now.fingerprint, ["run"])
