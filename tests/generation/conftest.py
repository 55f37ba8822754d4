from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from megachar.config.loading import save_experiment
from megachar.config.schema import Experiment, TransformerConfig
from megachar.data.preprocess import cut_by_position, prepare_corpus
from megachar.data.vocabulary import ByteVocabulary
from megachar.models.transformer import Transformer
from megachar.training.checkpoints import reading
from tests.torch_fixtures import one_thread, rng, seed

MakeModel = Callable[..., Transformer]


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
def run(tmp_path: Path, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder whose checkpoint exists in memory only."""
    model = make_model(32).float()
    experiment = Experiment(model=model.config)
    folder = tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    save_experiment(experiment, folder / "resolved.yaml")

    def load_model(run: Path, step: int | None = None) -> reading.LoadedModel:
        return reading.LoadedModel(model, experiment, 70 if step is None else step)

    monkeypatch.setattr(reading, "load_model", load_model)
    return folder


@pytest.fixture
def make_corpus(tmp_path: Path) -> Callable[[], Path]:
    """A small corpus of bytes."""

    def make() -> Path:
        (tmp_path / "text").write_bytes(b"some words " * 20)
        folder = tmp_path / "corpus"
        prepare_corpus(cut_by_position(tmp_path / "text", "80,10,10"), folder, ByteVocabulary())
        return folder

    return make
