"""T64 itself, all 64 layers, trains on CPUs over four pipeline stages."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from megachar.config.loading import load_experiment
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.vocabulary import ByteVocabulary
from megachar.runs.folder import run_folder
from megachar.runs.metrics import read_metrics
from tests.parallel.pool import RankPool
from tests.parallel.test_resume import train_case

GIB = 2**30


def test_t64_trains_over_four_stages(ranks: Callable[[int], RankPool], tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(np.random.default_rng().integers(97, 123, 20_000, dtype=np.uint8).tobytes())
    prepare_corpus(cut_by_position(tmp_path / "text"), tmp_path / "corpus", ByteVocabulary())
    experiment = load_experiment("t64", [
        f"data.path={tmp_path / 'corpus'}", f"output={tmp_path}", "device=cpu", "parallel.pipe=4", "batch.micro_size=1",
        "batch.global_size=1", "training.total_steps=1", "training.log_interval=1", "training.validation_windows=1",
        "parallel.activation_checkpoint_interval=1",
    ])  # fmt: skip
    ranks(4).run(train_case, experiment.model_dump(), False)
    folder = run_folder(experiment)
    steps = read_metrics(folder, "train")
    assert len(steps) == 1
    first = np.array(steps[0]["layers"], dtype=float)
    assert first.shape == (64, 2)
    np.testing.assert_allclose(first, 8.0, rtol=0.02)  # bits of 256 symbols, on every layer
    memory = read_metrics(folder, "end")[0]["memory_bytes_by_rank"]
    print("T64 over four stages, peak memory by rank:", [f"{peak / GIB:.2f} GiB" for peak in memory])
    # A quarter each of 235 M weights, gradients and momentum in fp32 is 0.7 GiB; the whole model would be 2.8 GiB.
    assert max(memory) < 2.6 * GIB
