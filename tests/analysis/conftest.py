import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megachar.config.loading import parse_experiment, save_experiment
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.vocabulary import ByteVocabulary, Vocabulary
from megachar.families.recurrent.model import RecurrentModel
from megachar.families.recurrent.settings import RecurrentConfig
from megachar.families.transformer.model import Transformer
from megachar.runs.checkpoints.format import identity
from megachar.runs.folder import RunFolder
from tests.runs.checkpoints_by_hand import write_checkpoint
from tests.torch_fixtures import one_thread, rng, seed

MakeCorpus = Callable[..., Path]
MakeRun = Callable[..., Path]
TEXT = b"It was Ann who said to the bear: Ann, dear Ann, we are lost in a wood of numbers.\n" * 80
MODELS = {
    "transformer": {"num_layers": 2, "width": 8, "num_heads": 2, "feed_forward_width": 8, "context": 16},
    "recurrent": {"family": "recurrent", "hidden_size": 7},
}


@pytest.fixture
def make_corpus(tmp_path: Path) -> MakeCorpus:
    """A corpus of TEXT; 20 % of it, 1,328 bytes, are its valid split."""

    def make(vocabulary: Vocabulary | None = None, name: str = "corpus") -> Path:
        (tmp_path / "text").write_bytes(TEXT)
        prepare_corpus(cut_by_position(tmp_path / "text", "80,20,0"), tmp_path / name, vocabulary or ByteVocabulary())
        return tmp_path / name

    return make


@pytest.fixture
def make_run(tmp_path: Path, seed: int) -> MakeRun:
    """A run folder with one checkpoint of a small random model, of step 70."""

    def make(name: str, corpus: Path, family: str = "transformer", vocabulary_size: int = 256) -> Path:
        values = {"name": name, "data": {"path": str(corpus)},
                  "model": {**MODELS[family], "vocabulary_size": vocabulary_size}}  # fmt: skip
        experiment = parse_experiment(values, name)
        run = RunFolder(tmp_path / "runs" / name)
        run.path.mkdir(parents=True)
        save_experiment(experiment, run.experiment_file)
        recurrent = isinstance(experiment.model, RecurrentConfig)
        model = RecurrentModel(experiment.model) if recurrent else Transformer(experiment.model, experiment.auxiliary)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.4)
        path = write_checkpoint(run, 70, dict(model.named_parameters()), experiment)
        manifest = json.loads((path / "manifest.json").read_text())
        (path / "manifest.json").write_text(json.dumps({**manifest, "experiment": identity(experiment)}))
        return run.path

    return make
