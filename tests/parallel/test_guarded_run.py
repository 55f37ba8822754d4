"""Whole runs with bad steps: skip, rollback, stop; and what a resumed run makes of them."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from megachar.config.experiment import Experiment
from megachar.families.transformer import source as transformer_source
from megachar.families.transformer.source import WindowSource
from megachar.parallel.stage import MicroBatch
from megachar.runs.checkpoints import files
from megachar.runs.checkpoints.format import list_checkpoints
from megachar.runs.folder import RunFolder, run_folder
from megachar.runs.metrics import read_metrics
from megachar.training import setup
from tests.parallel.pool import RankError, RankPool
from tests.parallel.test_resume import corpus, experiment_of, file_hashes, lines
from tests.parallel.whole_run import train

__all__ = ["corpus"]
Ranks = Callable[[int], RankPool]
TOTAL = 8


class FaultySource(WindowSource):
    """Batches of which those at some places in the order of data are bad on data rank 0, or not there at all."""

    bad: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()
    handed_out_bad = False

    def training(self, step: int) -> Iterator[MicroBatch]:
        place = [place for place in range(99) if place not in self.missing][step]
        for batch in super().training(place):
            FaultySource.handed_out_bad = place in self.bad and self.mesh.at.data == 0
            yield batch


def run_case(values: dict[str, Any], resume: bool, bad: tuple[int, ...], missing: tuple[int, ...]) -> None:
    """On a rank: the whole loop; what comes out of the embedding of a bad batch is NaN."""
    build, source = setup.build_engine, transformer_source.WindowSource
    FaultySource.bad, FaultySource.missing = bad, missing

    def blow_up(_module: Any, _inputs: Any, hidden: torch.Tensor) -> torch.Tensor:
        return hidden * torch.nan if FaultySource.handed_out_bad and hidden.requires_grad else hidden

    def build_faulty(*arguments: Any) -> Any:
        engine = build(*arguments)
        if engine.stage.embedding is not None:
            engine.stage.embedding.register_forward_hook(blow_up)
        return engine

    setup.build_engine, transformer_source.WindowSource = build_faulty, FaultySource  # type: ignore[misc]
    try:
        train(Experiment.model_validate(values), resume)
    finally:
        setup.build_engine, transformer_source.WindowSource = build, source  # type: ignore[misc]


def guarded(corpus: Path, output: Path, action: str, layout: tuple[int, int, int], **more: Any) -> Experiment:
    pipe, tensor, data = layout
    guard = {"action": action, "window": 2, "max_consecutive": 2, "spike_deviations": 0}
    return experiment_of(
        corpus, output, guard=guard, parallel={"pipe": pipe, "tensor": tensor, "data": data}, model={"dropout": 0.2},
        schedule={"shape": "cosine", "warmup_steps": 2}, **more
    )  # fmt: skip


def guard_records(folder: RunFolder) -> list[tuple[int, str, str]]:
    return [(record["step"], record["action"], record["reason"].partition(" (")[0])
            for record in read_metrics(folder, "guard")]  # fmt: skip


def keep_only(folder: RunFolder, step: int) -> None:
    for checkpoint in list_checkpoints(folder):
        if checkpoint.step != step:
            shutil.rmtree(checkpoint.path)


@pytest.mark.parametrize("deepspeed", ["fp32", "bf16_zero1"])
def test_a_guard_that_finds_nothing_changes_no_bit(ranks: Ranks, corpus: Path, tmp_path: Path, deepspeed: str) -> None:
    hashes = []
    for action in ("off", "skip"):
        experiment = guarded(corpus, tmp_path / action, action, (2, 1, 1), deepspeed=deepspeed)
        ranks(2).run(run_case, experiment.model_dump(), False, (), ())
        assert read_metrics(run_folder(experiment), "guard") == []
        hashes.append(file_hashes(run_folder(experiment), TOTAL))
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(("layout", "deepspeed"), [((2, 1, 1), "fp32"), ((1, 1, 2), "fp32_zero3")])
def test_a_run_goes_back_past_the_batches(
    ranks: Ranks, corpus: Path, tmp_path: Path, layout: tuple[int, int, int], deepspeed: str
) -> None:
    """Checkpoints lie at 3 and 6; batch 4 is bad. So batches 3 and 4 are left out, and the rest is the run that never
    had them; also when it is resumed from a checkpoint after that, on fewer stages."""
    whole = guarded(corpus, tmp_path / "whole", "rollback", layout, deepspeed=deepspeed)
    ranks(2).run(run_case, whole.model_dump(), False, (4,), ())
    folder = run_folder(whole)
    assert guard_records(folder) == [(5, "rollback", "the loss is nan")]
    assert [checkpoint.step for checkpoint in list_checkpoints(folder)] == [3, 6, 8]

    without = guarded(corpus, tmp_path / "without", "rollback", layout, deepspeed=deepspeed)
    ranks(2).run(run_case, without.model_dump(), False, (), (3, 4))
    measured = [[line[:3] for line in lines(run)] for run in (folder, run_folder(without))]
    assert measured[0] == measured[1]
    assert file_hashes(folder, TOTAL) == file_hashes(run_folder(without), TOTAL)
    spent = [read_metrics(run, "train")[-1] for run in (folder, run_folder(without))]
    assert spent[0]["characters"] == spent[1]["characters"] * (TOTAL + 2) // TOTAL  # the steps taken back were taken
    assert spent[0]["flops"] > spent[1]["flops"]

    expected = file_hashes(folder, TOTAL)
    keep_only(folder, 6)
    resumed = whole if layout[2] > 1 else guarded(corpus, tmp_path / "whole", "rollback", (1, 1, 1))
    ranks(resumed.parallel.world_size).run(run_case, resumed.model_dump(), True, (4,), ())
    assert file_hashes(folder, TOTAL) == expected


def test_a_run_skips_and_resumes_in_the_midst(ranks: Ranks, corpus: Path, tmp_path: Path) -> None:
    """Batches 2 and 4 are bad; a resumed run's window and row of bad steps are those of the run that went on."""
    whole = guarded(corpus, tmp_path, "skip", (2, 1, 1))
    ranks(2).run(run_case, whole.model_dump(), False, (2, 4), ())
    folder = run_folder(whole)
    assert guard_records(folder) == [(3, "skip", "the loss is nan"), (5, "skip", "the loss is nan")]
    assert [record["step"] for record in read_metrics(folder, "train")] == [1, 2, 4, 6, 7, 8]
    after = list_checkpoints(folder)
    assert [checkpoint.manifest.loop_state["consecutive"] for checkpoint in after] == [1, 0, 0]
    expected, states = file_hashes(folder, TOTAL), after[-1].manifest.loop_state
    assert states.pop("seconds") > 0
    keep_only(folder, 3)
    ranks(2).run(run_case, whole.model_dump(), True, (2, 4), ())
    assert file_hashes(folder, TOTAL) == expected
    again = list_checkpoints(folder)[-1].manifest.loop_state
    assert again.pop("seconds") > after[0].manifest.loop_state["seconds"]
    assert again == states


def test_a_row_of_bad_steps_stops_all_ranks(ranks: Ranks, corpus: Path, tmp_path: Path) -> None:
    """After a rollback the row counts on; what was saved before stays."""
    match = (
        r"DivergenceError: 2 bad steps in a row, the last at step 6: the loss is nan \(seen on rank 1 of .*guard\.max_"
    )
    skip = guarded(corpus, tmp_path / "skip", "skip", (2, 1, 1))
    with pytest.raises(RankError, match=match):
        ranks(2).run(run_case, skip.model_dump(), False, (4, 5), ())
    assert [checkpoint.step for checkpoint in list_checkpoints(run_folder(skip))] == [3]
    rollback = guarded(corpus, tmp_path / "rollback", "rollback", (2, 1, 1))
    with pytest.raises(RankError, match=r"2 bad steps in a row, the last at step 5"):
        ranks(2).run(run_case, rollback.model_dump(), False, (4, 6), ())
    assert guard_records(run_folder(rollback)) == [(5, "rollback", "the loss is nan")]


def slow_disk_case(values: dict[str, Any]) -> None:
    """On a rank: a save is under way at the step that stops the run."""
    write = files.write_durably

    def slow(path: Path, data: bytes) -> None:
        time.sleep(0.3)
        write(path, data)

    files.write_durably = slow
    run_case(values, False, (3, 4), ())


def test_a_stop_brings_the_save_under_way_to_its_end(ranks: Ranks, corpus: Path, tmp_path: Path) -> None:
    experiment = guarded(corpus, tmp_path, "skip", (1, 1, 1))
    with pytest.raises(RankError, match=r"DivergenceError: 2 bad steps in a row, the last at step 5"):
        ranks(1).run(slow_disk_case, experiment.model_dump())
    (checkpoint,) = list_checkpoints(run_folder(experiment))
    assert (checkpoint.step, checkpoint.problems()) == (3, [])


def test_without_a_checkpoint_a_rollback_is_a_skip(ranks: Ranks, corpus: Path, tmp_path: Path) -> None:
    experiment = guarded(corpus, tmp_path, "rollback", (1, 1, 1))
    ranks(1).run(run_case, experiment.model_dump(), False, (1,), ())
    assert guard_records(run_folder(experiment)) == [(2, "skip", "the loss is nan")]


def exploding_case(values: dict[str, Any]) -> None:
    """On a rank: no fault planted; a learning rate that blows the model up."""
    assert os.environ["RANK"]
    train(Experiment.model_validate(values), False)


def test_a_rate_that_blows_up_is_stopped(ranks: Ranks, corpus: Path, tmp_path: Path) -> None:
    experiment = guarded(corpus, tmp_path, "skip", (1, 1, 2), optimizer={
        "name": "sgd", "learning_rate": 1e4, "momentum": 0.0})  # fmt: skip
    with pytest.raises(RankError, match=r"DivergenceError: 2 bad steps in a row"):
        ranks(2).run(exploding_case, experiment.model_dump())
