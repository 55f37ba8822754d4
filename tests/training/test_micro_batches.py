"""Which windows a run trains on, whatever the layout: a function of (seed, step, window number)."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from megachar.config.experiment import Experiment
from megachar.config.loading import load_experiment
from megachar.data.blend import Blend
from megachar.runs.preflight import check_data
from megachar.training.micro_batches import MicroBatchSource, build_source
from tests.config.conftest import BASE
from tests.corpora.corpora_by_hand import random_documents, write_corpus
from tests.draws import fresh_rng, fresh_seed


def experiment(*overrides: str) -> Experiment:
    return load_experiment(BASE, overrides)


def source_of(named: Experiment, rank: int, size: int) -> MicroBatchSource:
    """The source of data rank `rank` of `size`; all it asks of a mesh is its place, its size and its device."""
    mesh: Any = SimpleNamespace(
        at=SimpleNamespace(data=rank), topology=SimpleNamespace(data_size=size), device=torch.device("cpu")
    )
    return build_source(named, Blend.open(named.data), mesh)


def inputs_of(batches: Sequence[Any]) -> np.ndarray:
    return torch.cat([batch.inputs for batch in batches]).numpy()


@pytest.fixture
def corpora(tmp_path: Path) -> list[Path]:
    """Two corpora of documents of 1 to 400 random bytes."""
    rng = fresh_rng()
    for name in "ab":
        lengths = rng.integers(1, 400, size=60).tolist()
        write_corpus(tmp_path / name, {split: random_documents(rng, lengths) for split in ("train", "valid")})
    return [tmp_path / name for name in "ab"]


READINGS = {
    "random": ["data.path={a}"],
    "epoch": ["data.path={a}", "data.order=epoch"],
    "document": ["data.path={a}", "data.windows=document"],
    "document epoch": ["data.path={a}", "data.windows=document", "data.order=epoch"],
    "blend": ["data.blend=[{{path: {a}, weight: 0.7}}, {{path: {b}, weight: 0.3}}]"],
    "blend document epoch": [
        "data.blend=[{{path: {a}, weight: 2}}, {{path: {b}, weight: 1}}]", "data.windows=document", "data.order=epoch",
    ],
}  # fmt: skip


@pytest.mark.parametrize("reading", READINGS)
def test_every_layout_reads_the_same_windows(corpora: list[Path], reading: str) -> None:
    """Data ranks 1, 2, 3 and micro-batches of 1 to 12 windows: the same 12 windows a step, in the same order."""
    common = [*(text.format(a=corpora[0], b=corpora[1]) for text in READINGS[reading]), f"seed={fresh_seed(60)}"]
    print(common)
    wanted: dict[int, np.ndarray] = {}
    for micro_size, num_ranks in ((12, 1), (1, 1), (6, 2), (2, 2), (2, 3), (1, 3), (4, 3)):
        named = experiment(
            *common, f"batch.micro_size={micro_size}", "batch.global_size=12", f"parallel.data={num_ranks}"
        )
        check_data(named)
        for step in (0, 1, 50, 10**7):
            parts: dict[int, np.ndarray] = {}
            for rank in range(num_ranks):
                mine = list(source_of(named, rank, num_ranks).training(step))
                assert len(mine) == 12 // micro_size // num_ranks
                for place, batch in enumerate(mine):
                    parts[rank + place * num_ranks] = batch.inputs.numpy()
            found = np.concatenate([parts[number] for number in sorted(parts)])
            np.testing.assert_array_equal(found, wanted.setdefault(step, found))
    assert not np.array_equal(wanted[0], wanted[1])


@pytest.mark.parametrize("reading", READINGS)
def test_validation_is_the_same_whatever_the_seed_and_the_order(corpora: list[Path], reading: str) -> None:
    common = [text.format(a=corpora[0], b=corpora[1]) for text in READINGS[reading]]
    sizes = ["batch.micro_size=4", "batch.global_size=12", "training.validation_windows=24"]
    one = source_of(experiment(*common, *sizes, "seed=1"), 0, 1)
    whole = inputs_of(list(one.validation()))
    assert whole.shape == (24, 64)
    np.testing.assert_array_equal(whole, inputs_of(list(one.validation())))
    ranks = [list(source_of(experiment(*common, *sizes, "seed=2"), rank, 3).validation()) for rank in range(3)]
    turns = [batch for turn in zip(*ranks, strict=True) for batch in turn]
    np.testing.assert_array_equal(whole, inputs_of(turns))


def test_every_layout_validates_on_the_same_windows(corpora: list[Path]) -> None:
    """Also where their number is no multiple of what the data ranks read at a time."""
    wanted: np.ndarray | None = None
    for micro_size, num_ranks in ((12, 1), (1, 1), (6, 2), (2, 3), (1, 3), (4, 3)):
        named = experiment(f"data.path={corpora[0]}", f"batch.micro_size={micro_size}", "batch.global_size=12",
                           f"parallel.data={num_ranks}", "training.validation_windows=13")  # fmt: skip
        sources = [source_of(named, rank, num_ranks) for rank in range(num_ranks)]
        ranks = [list(source.validation()) for source in sources]
        assert {source.validation_micro_batches for source in sources} == set(map(len, ranks))
        found = inputs_of([batch for turn in zip(*ranks, strict=True) for batch in turn])
        wanted = found if wanted is None else wanted
        np.testing.assert_array_equal(found, wanted)


def test_a_resumed_run_goes_on_with_the_same_windows(corpora: list[Path]) -> None:
    named = experiment(f"data.blend=[{{path: {corpora[0]}, weight: 3}}, {{path: {corpora[1]}, weight: 4}}]",
                       "data.order=epoch", f"seed={fresh_seed(60)}")  # fmt: skip
    one = source_of(named, 0, 1)
    wanted = [inputs_of(list(one.training(step))) for step in range(9)]
    fresh = source_of(named, 0, 1)
    np.testing.assert_array_equal(inputs_of(list(fresh.training(8))), wanted[8])


def test_what_is_said_of_the_text(corpora: list[Path]) -> None:
    stream = source_of(experiment(f"data.path={corpora[0]}"), 0, 1)
    assert stream.description == str(corpora[0])
    documents = source_of(experiment(f"data.path={corpora[0]}", "data.windows=document"), 0, 1)
    assert documents.description.startswith(f"{corpora[0]}; documents shorter than a window of 66 are left")
