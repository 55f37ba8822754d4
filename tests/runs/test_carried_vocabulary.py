"""Models stand alone: checkpoints and exports carry their vocabulary, and need no corpus to write and read text."""

import base64
import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from megachar.base.errors import CheckpointError, ConfigError, DataError
from megachar.cli import main
from megachar.cli.shared.corpora import open_corpus
from megachar.data.characters import CharacterVocabulary
from megachar.data.pieces import PieceVocabulary
from megachar.data.used_bytes import UsedBytesVocabulary
from megachar.data.vocabulary import ByteVocabulary, Vocabulary
from megachar.data.vocabulary_card import VocabularyCard
from megachar.families.transformer.model import Transformer
from megachar.runs.checkpoints.exporting import export_checkpoint, import_file
from megachar.runs.checkpoints.format import DataRecord, find_checkpoint
from megachar.runs.checkpoints.resuming import check_vocabulary
from megachar.runs.checkpoints.single_file import read_card
from megachar.runs.checkpoints.vocabularies import carried_card, carried_vocabulary, load_vocabulary
from megachar.runs.folder import RunFolder
from tests.runs.checkpoints_by_hand import small, write_run
from tests.runs.conftest import MakeCorpus

TEXT = b"as many words as there are in the word\n" * 9


def pieces() -> PieceVocabulary:
    return PieceVocabulary.train([(TEXT, str)], 275, "bpe")


def vocabulary_named(name: str) -> Vocabulary:
    return pieces() if name == "sentencepiece" else CharacterVocabulary.text8()


def run_with(folder: Path, vocabulary: Vocabulary, corpus: str = "", carries: bool = True) -> RunFolder:
    """A run of a random model whose checkpoints carry the vocabulary, or are an older megachar's."""
    size = [f"model.vocabulary_size={vocabulary.size}", "parallel.tensor=1"]
    experiment = small(*size, *([f"data.path={corpus}"] if corpus else []))
    weights = dict(Transformer(experiment.model, experiment.auxiliary).named_parameters())
    for parameter in weights.values():
        torch.nn.init.normal_(parameter, std=0.4)
    run = write_run(RunFolder(folder), weights, experiment)
    for path in run.checkpoints.iterdir() if carries else ():
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["vocabulary"] = vocabulary.card()
        for name, content in vocabulary.files().items():
            (path / name).write_bytes(content)
            manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (path / "manifest.json").write_text(json.dumps(manifest))
    return run


@pytest.mark.parametrize("name", ["text8", "sentencepiece"])
def test_an_exported_file_alone_suffices(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two files in an empty folder, and a run folder that was moved, the corpus gone: they continue a prompt."""
    vocabulary = vocabulary_named(name)
    run = run_with(tmp_path / "run", vocabulary, corpus="/gone")
    (tmp_path / "empty").mkdir()
    file = tmp_path / "empty" / "model.safetensors"
    export_checkpoint(find_checkpoint(run, 20), file, "inference")
    moved = run.path.rename(tmp_path / "moved")
    for source in (file, moved):
        assert load_vocabulary(source).card() == vocabulary.card()
        raw = tmp_path / "raw"
        arguments = ["generate", source, "--prompt", "words", "--characters", "12", "--seed", "3", "--raw-output", raw]
        monkeypatch.setattr(sys, "argv", ["megachar", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
        assert capsys.readouterr().out.startswith("words")
        if name == "text8":
            assert len(raw.read_bytes()) == 12
            assert set(raw.read_bytes()) <= set(b" abcdefghijklmnopqrstuvwxyz")


def test_a_prompt_with_other_symbols(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_with(tmp_path / "run", CharacterVocabulary.text8())
    monkeypatch.setattr(sys, "argv", ["megachar", "generate", str(run.path), "--prompt", "the Cat"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    message = "DataError: the prompt, byte 4: 'C' is none of the 27 symbols of the vocabulary 'text8'; the model has no"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["text8", "sentencepiece"])
def test_there_and_back(name: str, tmp_path: Path) -> None:
    """A checkpoint out into a file and back into a run carries what it carried, and verify covers it."""
    vocabulary = vocabulary_named(name)
    original = find_checkpoint(run_with(tmp_path / "run", vocabulary), 20)
    export_checkpoint(original, tmp_path / "all.safetensors", "all")
    assert json.loads((tmp_path / "all.json").read_text())["vocabulary"]["size"] == vocabulary.size
    imported = import_file(tmp_path / "all.safetensors", tmp_path / "back")
    assert imported.manifest == original.manifest
    assert load_vocabulary(tmp_path / "back").card() == vocabulary.card()
    assert imported.problems() == []
    if name == "sentencepiece":
        (imported.path / "vocabulary.model").write_bytes(b"another")
        assert "vocabulary.model is damaged" in imported.problems()[0]
        with pytest.raises(CheckpointError, match=r"step-00000020: vocabulary\.model is not the SentencePiece model"):
            load_vocabulary(tmp_path / "back")
        (imported.path / "vocabulary.model").unlink()
        with pytest.raises(CheckpointError, match=r"its SentencePiece model, cannot be read: No such file.*; copy it"):
            carried_vocabulary(imported.path)


def test_a_file_that_lost_its_model(tmp_path: Path) -> None:
    export_checkpoint(find_checkpoint(run_with(tmp_path / "run", pieces())), tmp_path / "a.safetensors", "inference")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        metadata = file.metadata()
    encoded = metadata.pop("megachar/vocabulary.model")
    assert base64.b64decode(encoded) == pieces().model
    save_file(load_file(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", metadata)
    with pytest.raises(
        CheckpointError, match=r"b\.safetensors lacks the vocabulary\.model of its vocabulary, or it is"
    ):
        load_vocabulary(tmp_path / "b.safetensors")


def test_models_of_an_older_megachar(tmp_path: Path, make_corpus: MakeCorpus) -> None:
    """They carry no vocabulary: 256 symbols are bytes, others those of the corpus."""
    old = run_with(tmp_path / "bytes", ByteVocabulary(), carries=False)
    export_checkpoint(find_checkpoint(old), tmp_path / "old.safetensors", "inference")
    for source in (old.path, find_checkpoint(old).path, tmp_path / "old.safetensors"):
        assert carried_card(source) is None
        assert load_vocabulary(source).name == "bytes"
    assert read_card(tmp_path / "old.safetensors").vocabulary is None
    corpus = make_corpus(vocabulary=CharacterVocabulary.text8())
    text8 = run_with(tmp_path / "text8", CharacterVocabulary.text8(), str(corpus), carries=False)
    assert load_vocabulary(text8.path).name == "text8"
    shutil.rmtree(corpus)
    with pytest.raises(DataError, match="no corpus at"):
        load_vocabulary(text8.path)
    nowhere = run_with(tmp_path / "nowhere", CharacterVocabulary.text8(), carries=False)
    with pytest.raises(ConfigError, match=r"an older megachar saved the model without saying what its 27 symbols are"):
        load_vocabulary(nowhere.path)


def test_the_step_that_is_asked_for(tmp_path: Path) -> None:
    """Of a run whose older checkpoints carry none."""
    run = run_with(tmp_path / "run", CharacterVocabulary.text8())
    old = find_checkpoint(run, 5).path / "manifest.json"
    old.write_text(json.dumps({**json.loads(old.read_text()), "vocabulary": None}))
    assert [carried_card(run.path, step) is None for step in (None, 100, 20, 5, 7)] == [False, False, False, True, True]


def test_text_of_another_vocabulary_is_refused(make_corpus: MakeCorpus) -> None:
    """Also where it has as many symbols."""
    corpus = make_corpus(vocabulary=CharacterVocabulary("bc" + "".join(map(chr, range(200, 225))), False))
    experiment = small("model.vocabulary_size=27", "parallel.tensor=1", f"data.path={corpus}")
    text8 = VocabularyCard(**CharacterVocabulary.text8().card())
    for data in (None, corpus):
        with pytest.raises(
            DataError, match=r"has the vocabulary 'characters' \(27 tokens\), the model 'text8' \(27 to"
        ):
            open_corpus(experiment, text8, data)
    assert open_corpus(experiment, None, None).folder == corpus  # an older megachar's model: only the size is known
    shutil.rmtree(corpus)
    with pytest.raises(DataError, match=r"the corpus that the model was trained on is not there: .*; .* --data FOLDER"):
        open_corpus(experiment, text8, None)


def test_resuming_with_other_symbols_is_refused(tmp_path: Path) -> None:
    """Also where other data are allowed, and there are as many symbols."""
    checkpoint = find_checkpoint(run_with(tmp_path / "run", CharacterVocabulary.text8()))
    data = DataRecord(fingerprint="0", description="data/other")
    check_vocabulary(checkpoint, CharacterVocabulary.text8(), data)
    others = CharacterVocabulary("bc" + "".join(map(chr, range(200, 225))), False)
    with pytest.raises(
        DataError, match=r"has the vocabulary 'text8' \(27 tokens\), and data/other has 'characters' \(27"
    ):
        check_vocabulary(checkpoint, others, data)


@pytest.mark.parametrize(
    ("vocabulary", "unit"),
    [
        (ByteVocabulary(), "character"),
        (CharacterVocabulary.text8(), "character"),
        (CharacterVocabulary("abé", bytes_for_others=False), "character"),
        (CharacterVocabulary("abé", bytes_for_others=True), "token"),
        (UsedBytesVocabulary(b"ab"), "character"),
        (pieces(), "token"),
    ],
)
def test_bits_are_called_what_they_are_of(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    vocabulary: Vocabulary,
    unit: str,
) -> None:
    assert vocabulary.unit == VocabularyCard(**vocabulary.card()).unit == unit
    run = run_with(tmp_path / "run", vocabulary)
    monkeypatch.setattr(sys, "argv", ["megachar", "checkpoint", "inspect", str(run.path)])
    with pytest.raises(SystemExit):
        main()
    assert f"2.5000 bits per {unit}" in " ".join(capsys.readouterr().out.split())
