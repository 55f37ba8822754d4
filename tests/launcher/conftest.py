"""Fixtures of the tests of launching: a tiny corpus, and machines of a cluster."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.vocabulary import ByteVocabulary
from tests.launcher.machines import Cluster, why_not


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus of 8,000 random letters."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "text").write_bytes(np.random.default_rng(1).integers(97, 123, 8000, dtype=np.uint8).tobytes())
    prepare_corpus(cut_by_position(folder / "text"), folder / "prepared", ByteVocabulary())
    return folder / "prepared"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three machines; the third is a login node in most tests."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with Cluster(tmp_path_factory.mktemp("cluster"), 3) as cluster:
        yield cluster


@pytest.fixture
def fresh_cluster(cluster: Cluster) -> Iterator[Cluster]:
    """The same machines, as new: a test may spoil them, and they are mended after it."""
    yield cluster
    cluster.mend()
