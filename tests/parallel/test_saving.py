"""Saving beside training, and what goes wrong with it; resuming when files are damaged or the corpus is another."""

import hashlib
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from megachar.base.errors import MegacharError
from megachar.config.experiment import Experiment
from megachar.data.pieces import PieceVocabulary
from megachar.data.vocabulary import ByteVocabulary
from megachar.parallel.engine import TrainingEngine
from megachar.parallel.mesh import start
from megachar.parallel.state import EngineState
from megachar.parallel.topology import Topology
from megachar.runs.checkpoints import files
from megachar.runs.checkpoints.format import DataRecord, FileRecord, list_checkpoints
from megachar.runs.checkpoints.resuming import newest_whole
from megachar.runs.checkpoints.saving import CheckpointSaver, SavedCheckpoint
from megachar.runs.checkpoints.vocabularies import carried_vocabulary
from megachar.runs.folder import RunFolder, run_folder
from megachar.runs.metrics import read_metrics
from megachar.selftest.reference import micro_batch, weights_at
from megachar.training.setup import build_engine
from tests.parallel.cases import small_experiment
from tests.parallel.pool import RankPool
from tests.parallel.test_resume import STOP, TOTAL, corpus, experiment_of, file_hashes, lines
from tests.parallel.whole_run import train

Ranks = Callable[[int], RankPool]
DATA = DataRecord(fingerprint="0", description="random symbols")
TWO = {"parallel": {"pipe": 2}}
text = corpus


def train_case(values: dict[str, Any], resume: bool) -> str:
    """On a rank: the whole training loop; the error of this rank, if it is one of ours."""
    try:
        train(Experiment.model_validate(values), resume)
    except MegacharError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def engine_of(experiment: Experiment) -> tuple[TrainingEngine, EngineState]:
    parallel = experiment.parallel
    mesh = start(Topology(parallel.pipe, parallel.data, parallel.tensor), torch.device("cpu"))
    engine = build_engine(experiment, mesh)
    return engine, EngineState(engine, experiment.optimizer.state_keys)


def one_step(experiment: Experiment, engine: TrainingEngine, step: int) -> None:
    batches = [micro_batch(experiment, step, number) for number in range(experiment.batch.num_micro_batches)]
    engine.train_step(batches, weights_at(experiment, step), experiment.optimizer.learning_rate)


def background_case(values: dict[str, Any]) -> None:
    """On a rank: train while rank 1 takes its time to write; then save the same step again, and look all the while."""
    experiment = Experiment.model_validate(values)
    engine, state = engine_of(experiment)
    folder, reported = run_folder(experiment), list[SavedCheckpoint]()
    vocabulary = PieceVocabulary.train([(b"as many words as there are\n" * 9, str)], 272, "bpe")  # which has a file
    saver = CheckpointSaver(folder, state, experiment, DATA, vocabulary, reported.append)
    write, go_on = files.write_durably, threading.Event()

    def slow(path: Path, data: bytes) -> None:
        go_on.wait()
        write(path, data)

    one_step(experiment, engine, 0)
    before = {name: tensor.clone() for _, weights, _ in state.export() for name, tensor in weights.items()}
    files.write_durably = slow if engine.mesh.rank == 1 else write
    try:
        saver.save(1, validation_bits=2.5, loop_state={"skipped": 7})
        for step in (1, 2, 3):  # training goes on
            one_step(experiment, engine, step)
            saver.poll()
        assert not reported
        assert not list_checkpoints(folder)
    finally:
        go_on.set()
        files.write_durably = write
    saver.finish()
    (saved,) = reported
    (checkpoint,) = list_checkpoints(folder)
    assert (checkpoint.path, checkpoint.step) == (saved.path, saved.step)
    assert (checkpoint.manifest.loop_state, checkpoint.manifest.validation_bits) == ({"skipped": 7}, 2.5)
    assert checkpoint.problems() == []
    assert "vocabulary.model" in checkpoint.manifest.files
    assert carried_vocabulary(checkpoint.path).card() == vocabulary.card()  # type: ignore[union-attr]
    assert checkpoint.num_bytes == saved.num_bytes
    assert 0 < saved.standstill_seconds < saved.seconds
    restored = EngineState(engine, experiment.optimizer.state_keys)
    newest, _ = newest_whole(folder, engine.mesh)
    assert newest == checkpoint
    from megachar.runs.checkpoints.reading import restore_checkpoint

    restore_checkpoint(checkpoint, restored, experiment)  # what was trained since is not in it
    for _, weights, _ in restored.export():
        for name, tensor in weights.items():
            assert torch.equal(tensor, before[name]), name

    one_step(experiment, engine, 1)
    saver.save(1)
    while len(reported) == 1:
        assert list_checkpoints(folder), "there is a whole checkpoint under a visible name at any moment"
        saver.poll()
    assert [found.path.name for found in list_checkpoints(folder)] == ["step-00000001.1"]
    saver.save(2)
    saver.save(3)  # waits for the one before
    assert len(reported) == 3
    saver.finish()
    assert [found.step for found in list_checkpoints(folder)] == [2, 3]
    assert not list(folder.checkpoints.glob(".*"))


def test_training_goes_on_while_a_checkpoint_is_written(ranks: Ranks, tmp_path: Path) -> None:
    experiment = small_experiment(name="run", output=str(tmp_path), **TWO, training={"keep_checkpoints": 2})
    ranks(2).run(background_case, experiment.model_dump())


def failing_case(values: dict[str, Any]) -> list[str]:
    """On a rank: saves that fail in different ways; the errors of this rank."""
    experiment = Experiment.model_validate(values)
    engine, state = engine_of(experiment)
    folder, reported = run_folder(experiment), list[SavedCheckpoint]()
    saver = CheckpointSaver(folder, state, experiment, DATA, ByteVocabulary(), reported.append)
    saver.save(1)
    saver.finish()
    write, replace = files.write_durably, Path.rename
    errors = []

    def attempt(step: int) -> None:
        saver.save(step)
        saver.finish()

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    def flip(path: Path, data: bytes) -> None:
        write(path, data[:-1] + bytes([data[-1] ^ 1]))

    def lose(path: Path, data: bytes) -> None:
        write(path, data)
        if path.name == "manifest.json":
            return
        path.unlink()
        record = FileRecord(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        files.fingerprint = lambda _: record

    def stuck(path: Path, target: Path) -> Path:
        raise OSError(5, "Input/output error", str(path))

    read = files.fingerprint
    for fault in (full, flip, lose):
        files.write_durably = fault if engine.mesh.rank == 1 else write
        try:
            attempt(2)
        except MegacharError as error:
            errors.append(f"{type(error).__name__}: {error}")
        finally:
            files.write_durably, files.fingerprint = write, read
    Path.rename = stuck  # type: ignore[method-assign, assignment]
    try:
        attempt(2)
    except MegacharError as error:
        errors.append(f"{type(error).__name__}: {error}")
    finally:
        Path.rename = replace  # type: ignore[method-assign]
    (checkpoint,) = list_checkpoints(folder)
    assert checkpoint.problems() == []
    assert not engine.mesh.is_main or not list(folder.checkpoints.glob(".*"))  # the main rank clears up
    attempt(2)  # and the saver goes on
    assert [found.step for found in list_checkpoints(folder)] == [1, 2]
    return errors


def test_a_failed_save_is_seen_by_all_and_keeps_the_last_checkpoint(ranks: Ranks, tmp_path: Path) -> None:
    experiment = small_experiment(name="run", output=str(tmp_path), **TWO)
    for errors in ranks(2).run(failing_case, experiment.model_dump()):
        reasons = (
            "No space left on device",
            "was written and reads back otherwise",
            "is not seen here: the run's folder must be on a disk that all hosts share",
            "Input/output error",
        )
        for error, reason in zip(errors, reasons, strict=True):
            assert error.startswith("CheckpointError: checkpoint step-00000002 could not be saved: "), error
            assert reason in error
            assert error.endswith("Checkpoints saved before are untouched")


def test_a_damaged_checkpoint_is_passed_over(ranks: Ranks, text: Path, tmp_path: Path) -> None:
    """Named on the terminal's line and in the metrics; the run goes on from the newest whole one, on all ranks."""
    experiment = experiment_of(text, tmp_path, **TWO)
    assert ranks(2).run(train_case, experiment.model_dump(), False) == ["", ""]
    folder, originals = run_folder(experiment), {}
    for checkpoint in list_checkpoints(folder):
        originals[checkpoint.step] = file_hashes(folder, checkpoint.step)
        assert (checkpoint.manifest.validation_bits is None) == (checkpoint.step != TOTAL)
    assert list(originals) == [STOP, 2 * STOP, TOTAL]
    saves = read_metrics(folder, "checkpoint")
    assert [save["step"] for save in saves] == [STOP, 2 * STOP, TOTAL]
    assert all(0 < save["standstill_seconds"] <= save["seconds"] and save["num_bytes"] for save in saves)
    original = lines(folder)

    missing = folder.checkpoints / f"step-{TOTAL:08d}" / "optimizer" / "blocks.3.safetensors"
    missing.unlink()
    damaged = folder.checkpoints / f"step-{2 * STOP:08d}" / "weights" / "embedding.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
    (folder.checkpoints / ".step-00000007.part").mkdir()
    assert ranks(2).run(train_case, experiment.model_dump(), True) == ["", ""]
    metrics = [line for line in folder.metrics_file.read_text().splitlines() if '"damaged_checkpoint"' in line]
    assert len(metrics) == 2
    assert f"{missing} is missing" in metrics[0]
    assert f"{damaged} is damaged: its size or sha256 is not the manifest's" in metrics[1]
    assert lines(folder) == original
    found = list_checkpoints(folder)
    assert [checkpoint.path.name for checkpoint in found] == ["step-00000003", "step-00000006.1", "step-00000008"]
    assert {checkpoint.step: checkpoint.manifest.files for checkpoint in found} == originals
    assert not list(folder.checkpoints.glob(".*"))

    for checkpoint in found:
        (checkpoint.path / "manifest.json").write_text("{")
    for error in ranks(2).run(train_case, experiment.model_dump(), True):
        assert error.startswith(f"CheckpointError: {folder.path} has no whole checkpoint to resume from:\n"), error
        assert error.count("manifest.json is damaged") == 3
        assert error.endswith("start over without --resume")


def disagreeing_case(path: Path) -> tuple[int, list[str]]:
    """On a rank: rank 1 sees another folder than rank 0."""
    mesh = start(Topology(2, 1, 1), torch.device("cpu"))
    checkpoint, damaged = newest_whole(RunFolder(path / str(mesh.rank)), mesh)
    assert checkpoint is not None
    return checkpoint.step, [damage.reason for damage in damaged]


def test_hosts_that_see_other_files(ranks: Ranks, text: Path, tmp_path: Path) -> None:
    experiment = experiment_of(text, tmp_path / "run")
    ranks(1).run(train_case, experiment.model_dump(), False)
    for rank in "01":
        shutil.copytree(run_folder(experiment).path, tmp_path / rank)
    shutil.rmtree(tmp_path / "1" / "checkpoints" / f"step-{TOTAL:08d}")
    manifest = tmp_path / "1" / "checkpoints" / f"step-{2 * STOP:08d}" / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")  # which says the same, but is not
    for step, (missing, other) in ranks(2).run(disagreeing_case, tmp_path):
        assert step == STOP
        assert "manifest.json is missing (rank 1 on " in missing
        assert "step-00000006 on " in other
        assert " is another than on " in other


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for one checkpoint of the small model and a half."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1600k", "tmpfs", disk], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk needs root and mount: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_disk_that_fills_up(ranks: Ranks, text: Path, small_disk: Path) -> None:
    """In the middle of a save, in the thread; then on a disk that is full of other things from the start."""
    experiment = experiment_of(text, small_disk, **TWO)
    for error in ranks(2).run(train_case, experiment.model_dump(), False):
        assert error.startswith("CheckpointError: checkpoint step-00000006 could not be saved: "), error
        assert "No space left on device" in error
        assert "free space or mend the folder, then continue with --resume" in error
    folder = run_folder(experiment)
    (checkpoint,) = list_checkpoints(folder)
    assert (checkpoint.step, checkpoint.problems()) == (STOP, [])
    assert not list(folder.checkpoints.glob(".*"))

    other = small_disk / "other"
    with pytest.raises(OSError, match="No space left"):
        fill(other)
    for error in ranks(2).run(train_case, experiment.model_dump(), True):
        assert "No space left on device" in error
        assert error.startswith(("PlatformError: ", "ConfigError: ", "CheckpointError: "))
    assert checkpoint.problems() == []
    other.unlink()
    folder.checkpoints.rename(small_disk / "before")  # room for the rest
    shutil.rmtree(small_disk / "before")
    assert ranks(2).run(train_case, {**experiment.model_dump(), **one_checkpoint(experiment)}, True) == ["", ""]


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def one_checkpoint(experiment: Experiment) -> dict[str, Any]:
    return {"training": {**experiment.training.model_dump(), "checkpoint_interval": 0}}


def test_a_read_only_folder(ranks: Ranks, text: Path, small_disk: Path) -> None:
    """Of the run, before anything is trained; of its checkpoints alone, at the save."""
    experiment = experiment_of(text, small_disk, **TWO)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for error in ranks(2).run(train_case, experiment.model_dump(), False):
        assert error.startswith(f"ConfigError: the run folder {run_folder(experiment).path} cannot be written: "), error
        assert "Read-only file system" in error
        assert error.endswith("make it writable, free space, or set output=ANOTHER")
    elsewhere = experiment_of(text, small_disk.parent, **TWO)
    folder = run_folder(elsewhere)
    folder.path.mkdir()
    folder.checkpoints.symlink_to(small_disk)
    for error in ranks(2).run(train_case, elsewhere.model_dump(), False):
        assert error.startswith("CheckpointError: checkpoint step-00000003 could not be saved: "), error
        assert "Read-only file system" in error


def changing_case(values: dict[str, Any]) -> str:
    """On a rank: the corpus is written to after step 5, while it is open."""
    experiment = Experiment.model_validate(values)
    train_step = TrainingEngine.train_step
    steps: list[int] = []

    def change(self: TrainingEngine, *arguments: Any) -> None:
        train_step(self, *arguments)
        steps.append(1)
        if len(steps) == 5 and self.mesh.is_main:
            with (Path(experiment.data.path) / "train.bin").open("r+b") as file:
                file.write(b"other")

    TrainingEngine.train_step = change  # type: ignore[method-assign]
    try:
        return train_case(values, False)
    finally:
        TrainingEngine.train_step = train_step  # type: ignore[method-assign]


def test_a_corpus_that_changes_under_the_run(ranks: Ranks, text: Path, tmp_path: Path) -> None:
    """Noticed on all ranks at the next save, which is not made; the one before stays."""
    own = tmp_path / "corpus"
    shutil.copytree(text, own)
    experiment = experiment_of(own, tmp_path / "runs", **TWO)
    for error in ranks(2).run(changing_case, experiment.model_dump()):
        assert error.startswith(f"DataError: {own / 'train.bin'} is no longer the file that was opened: "), error
        assert "continue with --resume" in error
    (checkpoint,) = list_checkpoints(run_folder(experiment))
    assert (checkpoint.step, checkpoint.problems()) == (STOP, [])


def test_another_corpus_is_refused_unless_allowed(ranks: Ranks, text: Path, tmp_path: Path) -> None:
    from megachar.corpora.preparation import cut_by_position, prepare_corpus

    (tmp_path / "other").write_bytes(b"another text " * 400)
    prepare_corpus(cut_by_position(tmp_path / "other"), tmp_path / "corpus", ByteVocabulary())
    experiment = experiment_of(text, tmp_path, training={"total_steps": STOP})
    assert ranks(1).run(train_case, experiment.model_dump(), False) == [""]
    (checkpoint,) = list_checkpoints(run_folder(experiment))
    assert checkpoint.manifest.data is not None
    other = experiment_of(tmp_path / "corpus", tmp_path)
    (error,) = ranks(1).run(train_case, other.model_dump(), True)
    assert error.startswith(
        f"DataError: {checkpoint.path} was trained on {text} ({checkpoint.manifest.data.fingerprint})"
    )
    assert f"and the data are now {tmp_path / 'corpus'} (" in error
    assert error.endswith("training.allow_other_data=true")
    allowed = experiment_of(tmp_path / "corpus", tmp_path, training={"allow_other_data": True})
    assert ranks(1).run(train_case, allowed.model_dump(), True) == [""]
    assert list_checkpoints(run_folder(experiment))[-1].step == TOTAL


def test_training_goes_on_from_an_exported_file(ranks: Ranks, text: Path, tmp_path: Path) -> None:
    """Out of a run on one process, into another folder, on two stages: the run that never moved, bit by bit."""
    from megachar.runs.checkpoints.exporting import export_checkpoint, import_file

    experiment = experiment_of(text, tmp_path)
    assert ranks(1).run(train_case, experiment.model_dump(), False) == [""]
    first = list_checkpoints(run_folder(experiment))[0]
    export_checkpoint(first, tmp_path / "file.safetensors", "all")
    import_file(tmp_path / "file.safetensors", tmp_path / "new")
    moved = {**experiment.model_dump(), "name": "new", "parallel": {"pipe": 2}}
    assert ranks(2).run(train_case, moved, True) == ["", ""]
    assert file_hashes(RunFolder(tmp_path / "new"), TOTAL) == file_hashes(run_folder(experiment), TOTAL)
