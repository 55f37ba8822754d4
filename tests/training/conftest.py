from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megachar.data.preprocess import cut_by_position, prepare_corpus
from megachar.data.vocabulary import ByteVocabulary
from tests.torch_fixtures import one_thread, seed

MakeCorpus = Callable[..., Path]


@pytest.fixture
def make_corpus(tmp_path: Path) -> MakeCorpus:
    """Makes a corpus of random bytes; `split` gives percentages of train, valid and test."""

    def make(num_bytes: int = 1000, split: str = "80,20,0") -> Path:
        text = np.random.default_rng().integers(0, 256, size=num_bytes).astype(np.uint8)
        (tmp_path / "text").write_bytes(text.tobytes())
        prepare_corpus(cut_by_position(tmp_path / "text", split), tmp_path / "corpus", ByteVocabulary())
        return tmp_path / "corpus"

    return make
