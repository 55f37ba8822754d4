"""Checkpoints written while training goes on: it stands still only for the copy to host memory.

    main threads   copy | train ... train | gather | train ... train | report
    writers             | write, hash, fsync, read back |            |
    rank 0's writer                                | manifest, rename, fsync, delete old ones |

Threads do not communicate. While a save is under way, the main threads agree after every step whether all writers are
through: two agreements a save, each the same on all ranks.
"""

import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from torch import Tensor

from megachar.base.errors import CheckpointError, MegacharError
from megachar.config.deepspeed import load_engine_config
from megachar.config.experiment import Experiment
from megachar.data.vocabulary import Vocabulary
from megachar.data.vocabulary_card import VocabularyCard
from megachar.optimizers.schedules import trunk_end
from megachar.parallel.mesh import any_rank, fail_together
from megachar.parallel.messages import gather
from megachar.parallel.state import EngineState
from megachar.runs.checkpoints.contents import stream_file
from megachar.runs.checkpoints.files import publish, write_file, write_layer
from megachar.runs.checkpoints.format import (
    FORMAT_VERSION,
    DataRecord,
    FileRecord,
    Manifest,
    identity,
    new_folder,
)
from megachar.runs.checkpoints.retention import delete_expired, delete_leftovers
from megachar.runs.folder import RunFolder
from megachar.runs.ownership import Claim

Layers = dict[str, dict[str, Tensor]]
"""Path inside a checkpoint -> what that file holds."""


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint that is safe on disk."""

    path: Path
    step: int
    num_bytes: int
    standstill_seconds: float
    """For how long training stood still: the longest of all ranks."""
    seconds: float
    """From the start of the save until the checkpoint was whole on disk under its name."""
    remark: str | None
    """Why older checkpoints could not be deleted, if so."""

    def record(self) -> dict[str, Any]:
        """What metrics.jsonl keeps of it."""
        names = ("standstill_seconds", "seconds", "num_bytes")
        return {"path": str(self.path), **{name: getattr(self, name) for name in names}}

    def line(self) -> str:
        """One line of text."""
        remark = f"; {self.remark}" if self.remark else ""
        return (
            f"saved {self.path}, {self.num_bytes / 1e6:,.1f} MB: training stood still for "
            f"{self.standstill_seconds:.2f} s, on disk after {self.seconds:.2f} s{remark}"
        )


_WRITTEN: TypeAdapter[tuple[str | None, dict[str, FileRecord] | None, float]] = TypeAdapter(
    tuple[str | None, dict[str, FileRecord] | None, float]
)
"""What ranks tell of their files: why they could not be written, what they must be, seconds of standstill."""
_OUTCOME: TypeAdapter[tuple[str | None, SavedCheckpoint | None]] = TypeAdapter(
    tuple[str | None, SavedCheckpoint | None]
)
"""What rank 0 tells of the publishing: why it failed, or the checkpoint."""


class CheckpointSaver:
    """Saves a run's checkpoints, one at a time. Every rank must make every call, at the same step.

    Host memory: 12 bytes for each parameter of the stage (8 under SGD) on the rank that writes for it, taken at the
    start and kept, and one layer of that again while it is written.
    """

    def __init__(
        self,
        folder: RunFolder,
        state: EngineState,
        experiment: Experiment,
        data: DataRecord,
        vocabulary: Vocabulary,
        report: Callable[[SavedCheckpoint], None],
        claim: Claim | None = None,
    ) -> None:
        """Make ready.

        Args:
            report: called on every rank's main thread for each checkpoint once it is safe.
            claim: the main rank's, on the folder; None where nobody else can be at work there.
        """
        self.folder, self.state, self.experiment, self.report = folder, state, experiment, report
        self.data, self.vocabulary = data, vocabulary
        self.mesh = state.mesh
        self._host: dict[str, Tensor] = {}
        self._save: _Save | None = None
        for _ in state.export(self._host):  # takes the memory now: its first touch is many times slower than a copy
            pass
        if self.mesh.is_main:
            delete_leftovers(folder)
        # What an attempt that was taken for dead may still be writing has another name.
        attempt = torch.tensor(int(secrets.token_hex(4) if claim is None else claim.token, 16))
        dist.broadcast(attempt, src=0, group=self.mesh.control_group)
        self._claim, self._attempt = claim, f"{int(attempt):08x}"

    def save(self, step: int, validation_bits: float | None = None, loop_state: dict[str, Any] | None = None) -> None:
        """Copy the state of all ranks and start writing it. A save that is still under way is waited for first.

        Args:
            step: steps taken.
            validation_bits: bits per character of a validation of these very weights.
            loop_state: what the training loop wants back when it goes on from here (`Position`).

        Raises:
            CheckpointError: on every rank: the folder cannot be written, or the save before failed. What was saved
                before is untouched.
        """
        started = time.perf_counter()
        self.finish()
        part = self.folder.checkpoints / f".step-{step:08d}.{self._attempt}.part"
        self._make_folder(part)
        layers: Layers = {}
        for layer, weights, states in self.state.export(self._host):
            if weights:
                layers |= {f"weights/{layer}.safetensors": weights, f"optimizer/{layer}.safetensors": states}
        for first, rows in self.state.engine.stage.export_streams().items():
            layers[stream_file(first)] = rows
        settings = {
            "step": step,
            "optimizer_steps": self.state.optimizer_steps,
            "loss_scaler": self.state.loss_scaler,
            "loop_state": loop_state or {},
            "validation_bits": validation_bits,
        }
        others = self.vocabulary.files() if self.mesh.is_main else {}
        writer = _Thread(lambda: {name: write_layer(part / name, tensors) for name, tensors in layers.items()}
                         | {name: write_file(part / name, content) for name, content in others.items()})  # fmt: skip
        self._save = _Save(part, settings, started, writer)
        self._save.standstill_seconds = time.perf_counter() - started

    def poll(self) -> None:
        """Between two steps: see whether a save is through. `CheckpointError` on every rank if it failed on any."""
        save = self._save
        if save is None or not self._all_done(save.thread):
            return
        started = time.perf_counter()
        if save.publishing:
            self._end(save)
        else:
            self._publish(save)
            save.standstill_seconds += time.perf_counter() - started

    def finish(self) -> None:
        """Wait for the save that is under way, if one is. Raises as `poll`."""
        while self._save is not None:
            self._save.thread.join()
            self.poll()

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Around what raises on every rank or on none: a save that is under way is brought to its end before that."""
        try:
            yield
        except MegacharError:
            with suppress(MegacharError):  # the first error tells more
                self.finish()
            raise

    def _make_folder(self, part: Path) -> None:
        error: CheckpointError | None = None
        if self.mesh.is_main:
            try:
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
            except OSError as failure:
                error = self._error(part, f"{part}: {failure.strerror}")
        fail_together(self.mesh, error)

    def _all_done(self, thread: "_Thread") -> bool:
        return not any_rank(self.mesh, thread.is_alive())

    def _publish(self, save: "_Save") -> None:
        """All files are written and were read back: let rank 0 give them their name."""
        own = (save.thread.failure, save.thread.result, save.standstill_seconds)
        everyone = gather(_WRITTEN, own, self.mesh.control_group)
        self._fail_if(save, next((failure for failure, _, _ in everyone if failure is not None), None))
        files = {name: record for _, records, _ in everyone for name, record in (records or {}).items()}
        save.standstill_seconds = max(seconds for _, _, seconds in everyone)
        save.publishing = True
        save.thread = _Thread(lambda: self._publish_files(save, files) if self.mesh.is_main else None)

    def _publish_files(self, save: "_Save", files: dict[str, FileRecord]) -> SavedCheckpoint:
        manifest = Manifest(
            **save.settings,
            format_version=FORMAT_VERSION,
            precision=load_engine_config(self.experiment.deepspeed).precision,
            data=self.data,
            vocabulary=VocabularyCard(**self.vocabulary.card()),
            settings=self.experiment.model_dump(mode="json"),
            experiment=identity(self.experiment),
            files=files,
        )
        if self._claim is not None:
            self._claim.check()
        checkpoint = publish(save.part, new_folder(self.folder, manifest.step), manifest)
        seconds = time.perf_counter() - save.started
        training, remark = self.experiment.training, None
        try:
            trunk = trunk_end(self.experiment.schedule, training.total_steps)
            delete_expired(self.folder, checkpoint, training.keep_checkpoints, training.keep_best_checkpoint, trunk)
        except OSError as error:
            remark = f"older checkpoints could not be deleted: {error}"
        return SavedCheckpoint(
            checkpoint.path, checkpoint.step, checkpoint.num_bytes, save.standstill_seconds, seconds, remark
        )

    def _end(self, save: "_Save") -> None:
        failure, saved = gather(_OUTCOME, (save.thread.failure, save.thread.result), self.mesh.control_group)[0]
        self._fail_if(save, failure)
        self._save = None
        assert saved is not None
        self.report(saved)

    def _fail_if(self, save: "_Save", failure: str | None) -> None:
        """On every rank alike: clear up and raise."""
        if failure is None:
            return
        self._save = None
        error: CheckpointError | None = None
        if self.mesh.is_main:
            shutil.rmtree(save.part, ignore_errors=True)
            error = self._error(save.part, failure)
        fail_together(self.mesh, error)  # no rank ends before it is cleared up, for the others would be ended with it

    def _error(self, part: Path, failure: str) -> CheckpointError:
        return CheckpointError(
            f"checkpoint {part.name.split('.')[1]} could not be saved: {failure}; free space "
            f"or mend the folder, then continue with --resume. Checkpoints saved before are untouched"
        )


class _Thread(threading.Thread):
    """Runs one function; what it returns or why it failed is there once it has ended. Never holds up the process."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.result: Any = None
        self.failure: str | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._work()
        except Exception as error:
            self.failure = f"{error} (on {socket.gethostname()})"


@dataclass
class _Save:
    """A save under way."""

    part: Path
    settings: dict[str, Any]
    started: float
    thread: _Thread
    """Writes this rank's files; then, on rank 0, publishes."""
    standstill_seconds: float = 0.0
    publishing: bool = False
