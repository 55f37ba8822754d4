"""A run that stops and resumes is the run that never stopped, bit by bit; and a failed save harms nothing."""

import json
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megachar.config.experiment import Experiment
from megachar.config.loading import save_experiment
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.characters import CharacterVocabulary
from megachar.data.vocabulary import ByteVocabulary
from megachar.runs.checkpoints.format import FileRecord, list_checkpoints
from megachar.runs.checkpoints.reading import load_model
from megachar.runs.folder import RunFolder, run_folder
from megachar.runs.metrics import read_metrics
from megachar.training.display import Report
from tests.parallel.cases import small_experiment
from tests.parallel.pool import RankError, RankPool
from tests.parallel.whole_run import train

Ranks = Callable[[int], RankPool]
TOTAL, STOP = 8, 3


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    text = np.random.default_rng().integers(97, 123, 4000, dtype=np.uint8).tobytes()
    (folder / "text").write_bytes(text)
    prepare_corpus(cut_by_position(folder / "text"), folder / "prepared", ByteVocabulary())
    return folder / "prepared"


def experiment_of(corpus: Path, output: Path, **sections: Any) -> Experiment:
    training = {"total_steps": TOTAL, "log_interval": 1, "validation_interval": 4, "validation_windows": 8,
                "checkpoint_interval": STOP, "keep_checkpoints": 9, **sections.pop("training", {})}  # fmt: skip
    data = {"path": str(corpus), "order": sections.pop("order", "random")}
    return small_experiment(name="run", output=str(output), data=data, training=training, device="cpu", **sections)


def train_case(values: dict[str, Any], resume: bool, pictures: bool = False) -> None:
    """On a rank: the whole training loop."""
    train(Experiment.model_validate(values), resume, pictures)


SAME = ("step", "bits_per_character", "layers", "characters", "epoch", "flops")
"""What an interrupted run records as the uninterrupted one does."""


def lines(folder: RunFolder) -> list[tuple[Any, ...]]:
    return [tuple(record[name] for name in SAME) for kind in ("train", "validation")
            for record in read_metrics(folder, kind)]  # fmt: skip


def file_hashes(folder: RunFolder, step: int) -> dict[str, FileRecord]:
    checkpoint = next(found for found in list_checkpoints(folder) if found.step == step)
    return checkpoint.manifest.files


ADAMW = {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.1}


@pytest.mark.parametrize(
    ("layout", "deepspeed", "optimizer"),
    [
        ((1, 1, 1), "fp32", ADAMW),
        ((2, 1, 1), "fp32_zero1", None),
        ((2, 2, 1), "bf16_zero1", ADAMW),
        ((2, 1, 2), "bf16_zero1", ADAMW),
        ((1, 1, 2), "fp32_zero2", ADAMW),
        ((1, 2, 2), "fp32_zero1", ADAMW),
        ((1, 1, 2), "fp32_zero3", ADAMW),
        ((1, 1, 2), "bf16_zero2", ADAMW),
        ((1, 1, 2), "bf16_zero2_offload", ADAMW),
        ((1, 1, 2), "bf16_zero3_offload", None),
    ],
)
def test_resumed_run_is_the_uninterrupted_one(
    ranks: Ranks, corpus: Path, tmp_path: Path, layout: tuple[int, int, int], deepspeed: str, optimizer: Any
) -> None:
    pipe, tensor, data = layout
    sections: dict[str, Any] = {
        "model": {"dropout": 0.2},
        "deepspeed": deepspeed,
        "parallel": {"pipe": pipe, "tensor": tensor, "data": data},
        "schedule": {"shape": "cosine", "warmup_steps": 2},
    }
    if optimizer:
        sections["optimizer"] = optimizer
    whole = experiment_of(corpus, tmp_path / "whole", **dict(sections))
    pool = ranks(pipe * tensor * data)
    pool.run(train_case, whole.model_dump(), False)

    stopped = experiment_of(corpus, tmp_path / "stopped", **dict(sections))
    folder, original = run_folder(stopped), run_folder(whole)
    shutil.copytree(original.path, folder.path)
    save_experiment(stopped, folder.experiment_file)
    for checkpoint in list_checkpoints(folder):
        if checkpoint.step != STOP:
            shutil.rmtree(checkpoint.path)
    folder.metrics_file.unlink()
    pool.run(train_case, stopped.model_dump(), True)

    assert [line for line in lines(original) if line[0] > STOP] == lines(folder)
    assert file_hashes(folder, TOTAL) == file_hashes(original, TOTAL)
    assert file_hashes(folder, TOTAL) != file_hashes(original, STOP)


def test_checkpoint_holds_the_model_that_was_trained(ranks: Ranks, corpus: Path, tmp_path: Path) -> None:
    """The single-device model read from a pipe x tensor run validates to the figure the run logged."""
    import torch

    from megachar.data.batches import evenly_spaced_starts
    from megachar.data.corpus import Corpus
    from tests.data.reading import read_windows

    experiment = experiment_of(corpus, tmp_path, parallel={"pipe": 2, "tensor": 2})
    ranks(4).run(train_case, experiment.model_dump(), False)
    folder = run_folder(experiment)
    logged = read_metrics(folder, "validation")[-1]["bits_per_character"]

    model = load_model(folder.path).model
    tokens, context = Corpus.open(corpus).split("valid").tokens, experiment.model.context
    starts = evenly_spaced_starts(len(tokens), context + 2, 8)
    inputs, targets = (torch.from_numpy(array) for array in read_windows(tokens, starts, context, 2))
    with torch.no_grad():
        nats = torch.nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets[..., 0].flatten())
    assert nats.item() / np.log(2) == pytest.approx(logged, rel=1e-6)


def test_failed_save_is_seen_by_all_and_keeps_the_last_checkpoint(ranks: Ranks, corpus: Path, tmp_path: Path) -> None:
    experiment = experiment_of(corpus, tmp_path, parallel={"pipe": 2})
    pool = ranks(2)
    pool.run(train_case, experiment.model_dump(), False)
    folder = run_folder(experiment)
    before = file_hashes(folder, TOTAL)
    with pytest.raises(RankError, match=r"could not be saved.*No space left on device"):
        pool.run(failing_save_case, experiment.model_dump())
    assert file_hashes(folder, TOTAL) == before
    assert not list(folder.checkpoints.glob(".*.part"))


def failing_save_case(values: dict[str, Any]) -> None:
    """On a rank: resume one step short of the end, with a disk that is full for rank 1."""
    import os

    from megachar.runs.checkpoints import files

    experiment = Experiment.model_validate(values)
    if os.environ["RANK"] == "1":

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        files.write_durably = full
    extended = experiment.model_copy(update={"training": experiment.training.model_copy(update={"total_steps": 9})})
    train(extended, True)


def test_another_model_is_refused(ranks: Ranks, corpus: Path, tmp_path: Path) -> None:
    experiment = experiment_of(corpus, tmp_path)
    ranks(1).run(train_case, experiment.model_dump(), False)
    other = experiment_of(corpus, tmp_path, model={"width": 64})
    with pytest.raises(RankError, match=r"CheckpointError.*was saved with model"):
        ranks(1).run(train_case, other.model_dump(), True)


def test_metrics_and_pictures_are_there(ranks: Ranks, corpus: Path, tmp_path: Path) -> None:
    experiment = experiment_of(corpus, tmp_path, parallel={"pipe": 2})
    ranks(2).run(train_case, experiment.model_dump(), False, True)
    folder = run_folder(experiment)
    records = read_metrics(folder, "train")
    assert [record["step"] for record in records] == list(range(1, TOTAL + 1))
    assert all(record["characters_per_second"] > 0 and record["flops_per_second"] > 0 for record in records)
    # Layer 1 of 4 is silent from an eighth of training on, layer 2 from a quarter, the last never.
    assert [record["layers"][0][0] is None for record in records] == [False] + [True] * 7
    assert [record["layers"][1][0] is None for record in records] == [False] * 2 + [True] * 6
    assert all(record["layers"][3][1] is not None for record in records)
    assert sorted(path.name for path in folder.plots.iterdir()) == ["layers.png", "loss.png"]
    assert list(folder.tensorboard.iterdir())
    [start] = json.loads(folder.versions_file.read_text())["starts"]
    assert start["from_step"] == 0
    assert {"python", "megachar", "torch", "deepspeed", "numpy", "devices", "hosts"} <= start.keys()
    assert start["hosts"] == [socket.gethostname()]
    assert start["devices"][0].startswith("2 x ")
    if (Path(__file__).parents[2] / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", start["commit"])


def test_losses_of_tokens_are_not_called_those_of_characters(ranks: Ranks, tmp_path: Path) -> None:
    """A vocabulary that writes some characters as several tokens, their bytes."""
    (tmp_path / "text").write_bytes("zwölf Bären ".encode() * 40)
    vocabulary = CharacterVocabulary(" Bfelnrwz", bytes_for_others=True)
    prepare_corpus(cut_by_position(tmp_path / "text"), tmp_path / "prepared", vocabulary)
    training = {"total_steps": 2, "validation_interval": 2}
    model = {"vocabulary_size": vocabulary.size}
    experiment = experiment_of(tmp_path / "prepared", tmp_path, training=training, model=model)
    ranks(1).run(train_case, experiment.model_dump(), False)
    folder = run_folder(experiment)
    for kind in ("train", "validation"):
        assert read_metrics(folder, kind)[-1]["unit"] == "token"
    shown = Report(1, 2.5, 0.1, 1000.0, 0.0, None, 0).parts("token")
    assert shown[:2] == ["2.5000 bits/token", "1,000 tokens/s"]


def test_a_resumed_run_may_go_further(ranks: Ranks, corpus: Path, tmp_path: Path) -> None:
    """With more steps than it was started for; the settings it had until then are kept beside the new ones."""
    experiment = experiment_of(corpus, tmp_path)
    ranks(1).run(train_case, experiment.model_dump(), False)
    longer = experiment_of(corpus, tmp_path, training={"total_steps": TOTAL + 2})
    ranks(1).run(train_case, longer.model_dump(), True)
    folder = run_folder(experiment)
    assert folder.load_experiment() == longer
    assert (folder.path / f"resolved-until-step-{TOTAL}.yaml").is_file()
    assert list_checkpoints(folder)[-1].step == TOTAL + 2


def test_a_run_without_a_checkpoint_starts_anew(ranks: Ranks, corpus: Path, tmp_path: Path) -> None:
    experiment = experiment_of(corpus, tmp_path)
    run_folder(experiment).record(experiment, {}, step=0)
    ranks(1).run(train_case, experiment.model_dump(), True)
    assert list_checkpoints(run_folder(experiment))[-1].step == TOTAL


def reading_case(values: dict[str, Any], resume: bool) -> tuple[list[int], str]:
    """On a rank: train; the numbers of the windows that were read, and what was said."""
    import contextlib
    import io

    from megachar.families.transformer import source

    read, said, numbers = list[int](), io.StringIO(), source.window_numbers

    def kept(*arguments: int) -> Any:
        windows = numbers(*arguments)
        if len(arguments) == 5:  # of training
            read.extend(windows.tolist())
        return windows

    source.window_numbers = kept
    with contextlib.redirect_stdout(said):
        train(Experiment.model_validate(values), resume)
    return read, said.getvalue()


@pytest.mark.parametrize("old", [False, True])
def test_another_batch_goes_on_where_the_text_was_left(ranks: Ranks, corpus: Path, tmp_path: Path, old: bool) -> None:
    """A larger and a smaller batch: every window is read once. So too after an older megachar's checkpoint."""
    size = experiment_of(corpus, tmp_path).batch.global_size
    read = list[int]()
    for steps, batch in ((2, size), (4, 2 * size), (6, size // 2)):
        experiment = experiment_of(corpus, tmp_path, training={"total_steps": steps}, batch={
            "micro_size": size // 2, "global_size": batch})  # fmt: skip
        ((windows, said),) = ranks(1).run(reading_case, experiment.model_dump(), steps > 2)
        read += windows
        assert ("; the text continues at window" in said) == (steps > 2)
        if steps == 4:
            assert f"changed since: batch.global_size {size} -> {2 * size}, training.total_steps 2 -> 4; " in said
            assert f"; the text continues at window {2 * size:,}\n" in said
        if old and steps == 2:
            manifest = list_checkpoints(run_folder(experiment))[-1].path / "manifest.json"
            values = json.loads(manifest.read_text())
            assert values["loop_state"].pop("windows") == 2 * size
            del values["sha256"]
            manifest.write_text(json.dumps(values))
    assert read == list(range(7 * size))


def test_what_cannot_be_continued_exactly_is_said(ranks: Ranks, corpus: Path, tmp_path: Path) -> None:
    experiment = experiment_of(corpus, tmp_path, training={"total_steps": 2})
    ranks(1).run(train_case, experiment.model_dump(), False)
    other = experiment_of(corpus, tmp_path, training={"total_steps": 3}, order="epoch")
    ((_, said),) = ranks(1).run(reading_case, other.model_dump(), True)
    assert "data.order random -> epoch" in said
    assert "; windows are drawn in another order from here, so some text may be read twice and some not" in said
    ((_, said),) = ranks(1).run(reading_case, other.model_dump(), True)
    assert "changed since" not in said
    assert "changed since the last start" not in said
    older = json.loads(run_folder(other).versions_file.read_text())["starts"][0] | {"torch": "2.8.0"}
    del older["from_step"], older["devices"]
    run_folder(other).versions_file.write_text(json.dumps(older))  # as an older megachar wrote it
    ((_, said),) = ranks(1).run(reading_case, other.model_dump(), True)
    assert re.search(r"^changed since the last start: torch 2\.8\.0 -> [^,\n]*$", said, re.MULTILINE)
    starts = json.loads(run_folder(other).versions_file.read_text())["starts"]
    assert [(start.get("from_step"), start["torch"] == "2.8.0") for start in starts] == [(None, True), (3, False)]


def leaving_case(values: dict[str, Any], at: int) -> None:
    """On a rank: asked to leave during step `at`."""
    from megachar.base.errors import Preempted
    from megachar.watch.rank import RankWatch

    progress = RankWatch.progress

    def asked(watch: RankWatch, step: int | None = None) -> None:
        watch.preempt_asked = watch.preempt_asked or step == at
        progress(watch, step)

    RankWatch.progress = asked  # type: ignore[method-assign]
    with pytest.raises(Preempted):
        train(Experiment.model_validate(values), False)


def test_a_run_that_leaves_makes_the_validation_that_is_due(ranks: Ranks, corpus: Path, tmp_path: Path) -> None:
    """Its figures, its best checkpoint and what early stopping counts are those of the run that never left."""
    training = {"validation_interval": 2, "checkpoint_interval": 2}
    whole = experiment_of(corpus, tmp_path / "whole", training=dict(training))
    left = experiment_of(corpus, tmp_path / "left", training=dict(training))
    ranks(1).run(train_case, whole.model_dump(), False)
    ranks(1).run(leaving_case, left.model_dump(), 4)
    assert list_checkpoints(run_folder(left))[-1].step == 4
    ranks(1).run(train_case, left.model_dump(), True)
    assert lines(run_folder(left)) == lines(run_folder(whole))
    kept = [[(found.step, found.manifest.validation_bits, {**found.manifest.loop_state, "seconds": 0})
             for found in list_checkpoints(run_folder(experiment))] for experiment in (left, whole)]  # fmt: skip
    assert kept[0] == kept[1]


def disagreeing_case(values: dict[str, Any]) -> None:
    """On a rank: every rank has another seed."""
    import os

    train(Experiment.model_validate({**values, "seed": int(os.environ["RANK"])}), False)


def test_ranks_that_disagree_are_told(ranks: Ranks, corpus: Path, tmp_path: Path) -> None:
    experiment = experiment_of(corpus, tmp_path, parallel={"data": 2})
    with pytest.raises(RankError, match="the experiment is not the same everywhere: rank 1 on"):
        ranks(2).run(disagreeing_case, experiment.model_dump())
