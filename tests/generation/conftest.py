from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from megachar.cli import generate
from megachar.config.experiment import Experiment
from megachar.config.loading import save_experiment
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.vocabulary import ByteVocabulary
from megachar.families.recurrent.model import RecurrentModel
from megachar.families.recurrent.settings import RecurrentConfig
from megachar.families.transformer.model import Transformer
from megachar.families.transformer.settings import TransformerConfig
from megachar.runs.checkpoints import reading
from tests.torch_fixtures import one_thread, rng, seed

MakeModel = Callable[..., Transformer]
MakeRecurrent = Callable[..., RecurrentModel]


@pytest.fixture
def make_model(rng: np.random.Generator) -> MakeModel:
    """Models with weights large enough that every character of the context moves the prediction."""

    def make(context: int, positions: str = "learned") -> Transformer:
        shape = {"num_layers": 3, "width": 16, "num_heads": 2, "feed_forward_width": 32}
        config = TransformerConfig.model_validate({**shape, "context": context, "positions": positions})
        model = Transformer(config, None).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.4)
        return model

    return make


@pytest.fixture
def make_recurrent(seed: int) -> MakeRecurrent:
    """Models with weights large enough that what was long ago moves the prediction."""

    def make(**settings: object) -> RecurrentModel:
        small = {"hidden_size": 12, "vocabulary_size": 20, "segment_length": 5}
        model = RecurrentModel(RecurrentConfig.model_validate({**small, **settings})).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.7)
        return model

    return make


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Transformer | RecurrentModel], Path]:
    """Run folders whose checkpoint exists in memory only."""

    def make(model: Transformer | RecurrentModel) -> Path:
        experiment = Experiment(model=model.config)
        folder = tmp_path / "runs" / "small"
        folder.mkdir(parents=True)
        save_experiment(experiment, folder / "resolved.yaml")

        def load_model(run: Path, step: int | None = None) -> reading.LoadedModel:
            return reading.LoadedModel(model, experiment, 70 if step is None else step)

        monkeypatch.setattr(reading, "load_model", load_model)
        monkeypatch.setattr(generate, "check_model", lambda run, step=None: None)
        return folder

    return make


@pytest.fixture
def run(make_model: MakeModel, make_run: Callable[[Transformer | RecurrentModel], Path]) -> Path:
    """The run of a transformer."""
    return make_run(make_model(32).float())


@pytest.fixture
def recurrent_run(make_recurrent: MakeRecurrent, make_run: Callable[[Transformer | RecurrentModel], Path]) -> Path:
    """The run of a recurrent model over bytes."""
    return make_run(make_recurrent(vocabulary_size=256).float())


@pytest.fixture
def make_corpus(tmp_path: Path) -> Callable[[], Path]:
    """A small corpus of bytes."""

    def make() -> Path:
        (tmp_path / "text").write_bytes(b"some words " * 20)
        folder = tmp_path / "corpus"
        prepare_corpus(cut_by_position(tmp_path / "text", "80,10,10"), folder, ByteVocabulary())
        return folder

    return make
