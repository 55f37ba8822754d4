"""The kinds of file that others write, and what megachar does with each."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megachar.analysis.layers import analyze_layers
from megachar.analysis.result import read_picture
from megachar.base.errors import CheckpointError, DataError
from megachar.config.checks import check_experiment
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.corpus import Corpus
from megachar.data.pieces import PieceVocabulary
from megachar.families.recurrent.model import RecurrentModel
from megachar.families.transformer.model import Transformer
from megachar.report.contents import RunContents, read_runs
from megachar.report.curves import layer_charts, run_charts
from megachar.report.page import render
from megachar.report.text_settings import TextSettings
from megachar.runs.checkpoints.exporting import export_checkpoint, import_file
from megachar.runs.checkpoints.format import find_checkpoint, read_checkpoint
from megachar.runs.checkpoints.reading import LayerShapes, load_model, problems_of, read_layer
from megachar.runs.checkpoints.single_file import problem_of
from megachar.runs.checkpoints.sources import check_source, load_settings
from megachar.runs.checkpoints.vocabularies import carried_vocabulary
from megachar.runs.folder import RunFolder
from megachar.runs.plots import plot_run
from tests.hostile.mutations import BYTES, Mutation, header_changed, json_changed, json_line_changed, yaml_changed
from tests.report.runs import add_analysis, add_evaluation, make_experiment, make_run
from tests.runs.checkpoints_by_hand import write_checkpoint

TEXT = b"as many words as there are in the word\n" * 30


@dataclass(frozen=True)
class Files:
    """Sound files: of a transformer's run with everything in it, of a recurrent run, of a corpus."""

    root: Path
    transformer: RunFolder
    recurrent: RunFolder
    older: RunFolder
    """The transformer's run, without a checksum in its manifest."""

    def path(self, kind: "Kind") -> Path:
        """The one file of a kind that is to be damaged."""
        [path] = self.root.glob(kind.pattern)
        return path


@dataclass(frozen=True)
class Kind:
    """A kind of file."""

    pattern: str
    read: Callable[[Files], Any]
    """All that is done with it, and what it says, to compare."""
    mutations: list[Mutation]
    sealed: bool
    """Whether a checksum tells that it was changed: then it is never read as something else."""
    share: float = 1.0
    """Of the mutations that other kinds get: less where reading takes long."""


def make_files(root: Path) -> Files:
    """Sound files of all kinds."""
    (root / "text").write_bytes(TEXT)
    vocabulary = PieceVocabulary.train([(TEXT, str)], 275, "bpe")
    prepare_corpus(cut_by_position(root / "text", "60,20,20"), root / "corpus", vocabulary)
    runs = []
    for family in ("transformer", "recurrent"):
        experiment = make_experiment(root / "corpus", family)
        experiment = experiment.model_copy(
            update={"model": experiment.model.model_copy(update={"vocabulary_size": vocabulary.size})}
        )
        run = make_run(root / family, experiment)
        shutil.rmtree(run.checkpoints)
        model = RecurrentModel(experiment.model) if family == "recurrent" else None
        model = model or Transformer(experiment.model, experiment.auxiliary)  # type: ignore[assignment, arg-type]
        assert model is not None
        weights = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
        path = write_checkpoint(run, 40, weights, experiment, validation_bits=2.5)
        _complete(path, vocabulary, experiment)
        runs.append(run)
    add_evaluation(runs[0])
    add_analysis(runs[0])
    export_checkpoint(find_checkpoint(runs[0]), root / "all.safetensors", "all")
    older = RunFolder(Path(shutil.copytree(runs[0].path, root / "older")))
    manifest = next(older.checkpoints.glob("*/manifest.json"))
    values = json.loads(manifest.read_text())
    del values["sha256"]
    manifest.write_text(json.dumps(values))
    return Files(root, runs[0], runs[1], older)


def _complete(path: Path, vocabulary: PieceVocabulary, experiment: Any) -> None:
    """Add vocabulary and streams to a checkpoint, and seal its manifest."""
    from safetensors.torch import save

    added = {"vocabulary.model": vocabulary.model}
    if experiment.model.family == "recurrent":
        model, micro = experiment.model, experiment.batch.micro_size
        for part in range(experiment.batch.num_micro_batches):
            state = torch.randn(micro, model.num_layers, model.hidden_size)
            rows = {"hidden": state, "cell": state.clone(), "epoch": torch.zeros(micro)}
            added[f"streams/{part * micro:06d}.safetensors"] = save(rows)
        (path / "streams").mkdir()
    values = json.loads((path / "manifest.json").read_text())
    for name, data in added.items():
        (path / name).write_bytes(data)
        values["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / "manifest.json").write_text(json.dumps({**values, "vocabulary": vocabulary.card()}))
    (path / "manifest.json").write_bytes(read_checkpoint(path).manifest.to_json())


def _digest(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}


def _whole(run: RunFolder) -> tuple[Any, ...]:
    """A checkpoint as verify, evaluate, generate and resume read it."""
    [path] = run.checkpoints.iterdir()
    check_source(path, None)
    checkpoint = read_checkpoint(path)
    if problems := problems_of(checkpoint):
        raise CheckpointError("; ".join(problems))
    shapes, tensors = LayerShapes(load_settings(path)), dict[str, str]()
    for kind in ("weights", "optimizer", "streams"):
        for layer in checkpoint.layers(kind):
            tensors |= _digest(read_layer(checkpoint, kind, layer, shapes.of(kind, layer)))
    vocabulary = carried_vocabulary(path)
    assert vocabulary is not None
    return checkpoint.manifest, tensors, vocabulary.card()


def _exported(files: Files) -> Any:
    file, run = files.root / "all.safetensors", files.root / "imported"
    if problem := problem_of(file):
        raise CheckpointError(problem)
    model = load_model(file)
    try:
        imported = import_file(file, run)
    finally:
        shutil.rmtree(run, ignore_errors=True)
    return _digest(model.model.state_dict()), model.experiment, model.step, imported.manifest


def _exported_alone(files: Files) -> Any:
    """Without the JSON beside it: its tensors cannot be told from others, but they are as many and finite."""
    alone = files.root / "alone.safetensors"
    alone.unlink(missing_ok=True)
    if (files.root / "all.safetensors").is_file():
        shutil.copy(files.root / "all.safetensors", alone) if (files.root / "all.safetensors").stat().st_size else None
    model = load_model(alone)
    return _digest(model.model.state_dict()), model.experiment, model.step


def _records(files: Files) -> Any:
    run = files.transformer
    [contents] = read_runs([run.path])
    charts = [*run_charts([contents]), *layer_charts(contents)]
    if contents.train:
        analyze_layers(run.path, "run", "train")
    if any("damaged or cut off" in note for note in contents.notes) and contents.train:
        raise DataError(contents.notes[0])
    return contents.train, contents.validation, [chart.title for chart in charts], contents.notes


def _pictures(files: Files) -> Any:
    return [path.read_bytes() for path in plot_run(files.transformer)], _records(files)


def _reported(files: Files, name: str) -> RunContents:
    [contents] = read_runs([files.transformer.path])
    bare = RunContents(**{**vars(contents), "train": [], "validation": []})  # whose curves take long to draw
    render([bare], {}, TextSettings(num_characters=0, sample_characters=0, device="cpu"), [])
    for note in contents.notes:
        if name in note:
            raise DataError(note)
    return contents


def _picture(files: Files) -> Any:
    return [read_picture(analysis.figure) for analysis in _reported(files, "analyses").analyses]


def _settings(files: Files) -> Any:
    experiment = files.transformer.load_experiment()
    check_experiment(experiment)
    return experiment


def _corpus(files: Files) -> Any:
    corpus = Corpus.open(files.root / "corpus")
    for name in corpus.split_names:
        corpus.split(name)
    return corpus.card, corpus.fingerprint, corpus.vocabulary.card()


_STEP = "checkpoints/step-00000040"
_JSON: list[Mutation] = [*BYTES, *[json_changed] * len(BYTES) * 2]
_LINES: list[Mutation] = [*BYTES, *[json_line_changed] * len(BYTES)]
_TENSORS: list[Mutation] = [*BYTES, *[header_changed] * len(BYTES)]
KINDS = {
    "manifest": Kind(f"transformer/{_STEP}/manifest.json", lambda files: _whole(files.transformer), _JSON, True),
    "manifest of an older megachar": Kind(
        f"older/{_STEP}/manifest.json", lambda files: _whole(files.older), _JSON, False
    ),
    "weights": Kind(
        f"transformer/{_STEP}/weights/blocks.1.safetensors", lambda files: _whole(files.transformer), _TENSORS, True
    ),
    "optimizer": Kind(
        f"transformer/{_STEP}/optimizer/head.safetensors", lambda files: _whole(files.transformer), _TENSORS, True
    ),
    "streams": Kind(
        f"recurrent/{_STEP}/streams/000000.safetensors", lambda files: _whole(files.recurrent), _TENSORS, True
    ),
    "vocabulary of a checkpoint": Kind(
        f"transformer/{_STEP}/vocabulary.model", lambda files: _whole(files.transformer), BYTES, True
    ),
    "export": Kind("all.safetensors", _exported, _TENSORS, True),
    "export alone": Kind("all.safetensors", _exported_alone, _TENSORS, False),
    "JSON of an export": Kind("all.json", _exported, _JSON, True),
    "metrics": Kind("transformer/metrics.jsonl", _records, _LINES, False),
    "pictures of metrics": Kind(
        "transformer/metrics.jsonl", _pictures, [*BYTES, *[json_line_changed] * len(BYTES)], False, 0.1
    ),
    "settings": Kind("transformer/resolved.yaml", _settings, [*BYTES, *[yaml_changed] * len(BYTES) * 2], False),
    "card of a corpus": Kind("corpus/dataset.json", _corpus, _JSON, False),
    "vocabulary of a corpus": Kind("corpus/vocabulary.model", _corpus, BYTES, True),
    "evaluation": Kind(
        "transformer/evaluation-*.json", lambda files: _reported(files, "evaluation-").evaluations, _JSON, False
    ),
    "analysis": Kind("transformer/analyses/*.json", lambda files: _reported(files, "analyses").analyses, _JSON, False),
    "picture of an analysis": Kind("transformer/analyses/*.png", _picture, BYTES, False),
}
