from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from megachar.cli import evaluate
from megachar.config.experiment import Experiment
from megachar.config.loading import save_experiment
from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.config.sections.data import DataConfig
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.vocabulary import ByteVocabulary, Vocabulary
from megachar.families.recurrent.initialization import initialize
from megachar.families.recurrent.model import RecurrentModel
from megachar.families.recurrent.settings import RecurrentConfig
from megachar.families.transformer.model import Transformer
from megachar.families.transformer.settings import TransformerConfig
from megachar.runs.checkpoints import reading
from tests.torch_fixtures import one_thread, rng, seed

MakeModel = Callable[..., Transformer]
MakeRun = Callable[..., Path]


@pytest.fixture
def make_model(rng: np.random.Generator) -> MakeModel:
    """Models with weights large enough that every character of the context moves the prediction."""

    def make(context: int, dtype: torch.dtype = torch.float32, vocabulary_size: int = 256) -> Transformer:
        config = TransformerConfig(num_layers=2, width=16, num_heads=2, feed_forward_width=32, context=context,
                             vocabulary_size=vocabulary_size, positions="learned")  # fmt: skip
        model = Transformer(config, None).to(dtype).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.4)
        return model

    return make


@pytest.fixture
def text(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    words = b" ".join(rng.integers(97, 123, size=5).astype(np.uint8).tobytes() for _ in range(100))
    return np.frombuffer(words, dtype=np.uint8)


@pytest.fixture
def make_run(tmp_path: Path, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> MakeRun:
    """Run folders with a corpus (train, valid and test) of a text, whose checkpoint exists in memory only."""

    def make(text: bytes, vocabulary: Vocabulary, family: str = "transformer") -> Path:
        (tmp_path / "text").write_bytes(text)
        corpus = tmp_path / "corpus"
        prepare_corpus(cut_by_position(tmp_path / "text", "20,40,40"), corpus, vocabulary)
        model: Any
        if family == "transformer":
            model = make_model(32, vocabulary_size=vocabulary.size)
            experiment = Experiment(model=model.config, data=DataConfig(path=str(corpus)))
        else:
            config = RecurrentConfig(hidden_size=8, embedding_size=4, vocabulary_size=vocabulary.size)
            model = initialize(RecurrentModel(config), seed=1).eval()
            experiment = Experiment(
                model=config,
                data=DataConfig(path=str(corpus), order="streams"),
                auxiliary=AuxiliaryConfig(intermediate_layers=False, num_targets=1),
            )
        folder = tmp_path / "runs" / "small"
        folder.mkdir(parents=True)
        save_experiment(experiment, folder / "resolved.yaml")

        def load_model(run: Path, step: int | None = None) -> reading.LoadedModel:
            return reading.LoadedModel(model, experiment, 70 if step is None else step)

        monkeypatch.setattr(reading, "load_model", load_model)
        monkeypatch.setattr(evaluate, "check_model", lambda run, step=None: None)
        return folder

    return make


@pytest.fixture
def run(text: npt.NDArray[np.uint8], make_run: MakeRun) -> Path:
    """A run over bytes."""
    return make_run(text.tobytes(), ByteVocabulary())


@pytest.fixture
def recurrent_run(text: npt.NDArray[np.uint8], make_run: MakeRun) -> Path:
    """The same of a recurrent model."""
    return make_run(text.tobytes(), ByteVocabulary(), "recurrent")
