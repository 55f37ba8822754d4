from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.vocabulary import ByteVocabulary, Vocabulary
from megachar.families.transformer.model import Transformer
from megachar.runs.folder import RunFolder
from tests.draws import fresh_rng
from tests.runs.checkpoints_by_hand import small, write_run
from tests.torch_fixtures import one_thread, seed

MakeCorpus = Callable[..., Path]


@pytest.fixture
def make_corpus(tmp_path: Path) -> MakeCorpus:
    """Makes a corpus of random symbols, by default bytes; `split` gives percentages of train, valid and test."""

    def make(num_bytes: int = 1000, split: str = "80,20,0", vocabulary: Vocabulary | None = None) -> Path:
        vocabulary = vocabulary or ByteVocabulary()
        tokens = fresh_rng().integers(0, vocabulary.size, size=num_bytes)
        (tmp_path / "text").write_bytes(vocabulary.decode(tokens))
        prepare_corpus(cut_by_position(tmp_path / "text", split), tmp_path / "corpus", vocabulary)
        return tmp_path / "corpus"

    return make


@pytest.fixture
def model(seed: int) -> Transformer:
    """In training mode, with auxiliary classifiers, every parameter random."""
    experiment = small()
    model = Transformer(experiment.model, experiment.auxiliary)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    return model


@pytest.fixture
def run(tmp_path: Path, model: Transformer) -> RunFolder:
    """A run with the checkpoints of `write_run`."""
    return write_run(RunFolder(tmp_path / "run"), dict(model.named_parameters()), small())
