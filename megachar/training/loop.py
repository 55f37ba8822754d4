"""The training loop, from top to bottom."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from megachar.base.bars import waiting
from megachar.base.device import choose_device
from megachar.base.errors import Preempted
from megachar.base.files import json_text
from megachar.config.deepspeed import load_engine_config
from megachar.config.experiment import Experiment
from megachar.data.vocabulary import Vocabulary
from megachar.families.counting import describe_model
from megachar.losses.auxiliary import layer_weights
from megachar.optimizers.schedules import learning_rate
from megachar.parallel.engine import build_engine
from megachar.parallel.mesh import Mesh, any_rank, check_agreement, start
from megachar.parallel.proof import prove_membership
from megachar.parallel.state import EngineState
from megachar.parallel.topology import Topology
from megachar.runs.checkpoints.format import DataRecord
from megachar.runs.checkpoints.reading import restore_checkpoint
from megachar.runs.checkpoints.resuming import Resumption, newest_whole, resume_run
from megachar.runs.checkpoints.saving import CheckpointSaver, SavedCheckpoint
from megachar.runs.folder import run_folder
from megachar.runs.ownership import Claim
from megachar.runs.preflight import check_data, check_steps
from megachar.training.display import Terminal
from megachar.training.early_stopping import EarlyStopping
from megachar.training.garbage import no_collection
from megachar.training.guard import BadStep, Guard
from megachar.training.micro_batches import MicroBatchSource, build_source
from megachar.training.optimizer import build_optimizer, describe_kernels
from megachar.training.progress import Progress
from megachar.training.run_log import RunLog
from megachar.training.speed import SpeedMeter
from megachar.training.watching import connect_watch
from megachar.watch.rank import RankWatch


def train(
    experiment: Experiment,
    resume: bool,
    watch: RankWatch,
    terminal: Terminal | None = None,
    claim: Claim | None = None,
) -> None:
    """Train on this process's part of the layout; RANK, WORLD_SIZE and the like come from the environment.

    Args:
        experiment: what to train; every rank must be given the same.
        resume: go on from the newest checkpoint of the run's folder.
        watch: runs beside it, and ends this process when another one fails.
        terminal: what the main rank shows things on, if not on standard output alone.
        claim: the main rank's, on the run folder; None where nobody else can be at work there.

    Raises:
        Preempted: on every rank, after a checkpoint, if any was asked to leave.
    """
    with nullcontext() if terminal is None else waiting("setting up training", terminal.console):
        setup = _set_up(experiment, resume, watch)
    step, unit = setup.resumed.position.step, setup.vocabulary.unit
    with RunLog(experiment, setup.mesh, step, terminal, unit, claim) as log:
        finished = _Loop(experiment, setup, watch, log, claim).run()
    if not finished:
        raise Preempted


class _Loop:
    """One step after another, and what falls due between them. Every rank does the same at the same step."""

    def __init__(
        self, experiment: Experiment, setup: "_Setup", watch: RankWatch, log: RunLog, claim: Claim | None
    ) -> None:
        self.experiment, self.setup, self.watch, self.log = experiment, setup, watch, log
        self.engine, self.source = setup.state.engine, setup.source
        self.guard, self.stopping, self.progress = setup.guard, setup.stopping, setup.progress
        self.step = setup.resumed.position.step
        self.meter = SpeedMeter(experiment, setup.mesh)
        self.validation: float | None = None
        """Bits per character of the latest."""
        folder = run_folder(experiment)
        self.saver = CheckpointSaver(folder, setup.state, experiment, setup.data, setup.vocabulary, self._saved, claim)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return self.step == self.experiment.training.total_steps or self.stopping.stops

    @property
    def _windows(self) -> int:
        """Of the text, read or gone past."""
        return self.source.windows_before(self.step + self.guard.skipped_batches)

    @property
    def _so_far(self) -> dict[str, Any]:
        return self.progress.record(self._windows)

    def run(self) -> bool:
        """Train to the end, or until asked to leave; whether it was the end. A whole checkpoint is left."""
        self.log.note(_headline(self.experiment, self.setup, self.step))
        self.log.damaged(self.step, self.setup.resumed.damaged)
        for changed in filter(None, (self.setup.resumed.changed, self.log.changed_versions)):
            self.log.note(changed)
        self.watch.progress(self.step)
        leaves = False
        while not (self.finished or leaves):
            weights, rate = self._take_step()
            if self._goes_back():
                continue
            self.meter.count(weights)
            self.log.advance(self.step)
            self.saver.poll()
            leaves = any_rank(self.setup.mesh, self.watch.preempt_asked) and not self.finished
            self._follow_up(weights, rate, leaves)
        self.saver.finish()
        self.log.end(self.step, self.finished, self._so_far["characters"])
        return self.finished

    def _take_step(self) -> tuple[Sequence[float], float]:
        """Returns the weights of the layers' losses and the learning rate it was taken with."""
        experiment, total, step = self.experiment, self.experiment.training.total_steps, self.step
        weights = layer_weights(experiment.auxiliary, experiment.model.num_layers, total, step)
        rate = learning_rate(experiment.schedule, experiment.optimizer.learning_rate, total, step)
        batches = self.source.training(step + self.guard.skipped_batches)
        self.engine.train_step(self.watch.each(batches), weights, rate)
        self.step += 1
        self.progress.count(weights)
        self.watch.progress(self.step)
        return weights, rate

    def _goes_back(self) -> bool:
        """Look at the step just taken: whether a bad one has led back to an earlier checkpoint."""
        with self.saver.finishing():
            bad = self.guard.review(self.step)
        if bad is None:
            return False
        returned = _go_back(bad, self.setup, self.saver, self.experiment)
        with self.saver.finishing():
            self.log.bad_step(bad, returned)
        if returned is not None:
            self.step = returned
            self.meter.restart()
        return returned is not None

    def _follow_up(self, weights: Sequence[float], rate: float, leaves: bool) -> None:
        """Log, validate and save, where that is due; `leaves`: no other step is taken in this process."""
        training, step, last = self.experiment.training, self.step, self.finished
        # Also where the run leaves: this very step is not taken again, and the next process has other weights.
        validates = self.source.validation_micro_batches > 0 and (_due(step, training.validation_interval) or last)
        saves = _due(step, training.checkpoint_interval) or last or leaves
        if validates or saves:
            with self.saver.finishing():
                self.source.check_unchanged()
        if _due(step, training.log_interval) or validates or saves:
            losses = self.engine.gather_losses()
            bits, norm = losses.bits_per_character(), self.engine.gradient_norm
            report = self.meter.report(step, bits, rate, norm, self.validation)
            with self.saver.finishing():
                self.log.losses(report, losses, self.engine.skipped_steps, self._so_far)
            self.meter.restart()
        if validates:
            micro_batches = self.watch.each(self.source.validation())
            losses = self.engine.evaluate(micro_batches, self.source.validation_micro_batches, weights)
            with self.saver.finishing():
                self.validation = self.log.validation(step, losses, self._so_far)
            self.stopping.count(self.validation)
            self.meter.restart()
        if saves:
            state = self.guard.state | self.stopping.state | self.progress.state | {"windows": self._windows}
            self.saver.save(step, self.validation if validates else None, state)
            self.meter.restart()

    def _saved(self, saved: SavedCheckpoint) -> None:
        self.watch.saved(saved.step)
        self.log.saved(saved)


@dataclass(frozen=True)
class _Setup:
    """What training works with."""

    mesh: Mesh
    state: EngineState
    source: MicroBatchSource
    guard: Guard
    stopping: EarlyStopping
    progress: Progress
    data: DataRecord
    vocabulary: Vocabulary
    resumed: Resumption


@no_collection()
def _set_up(experiment: Experiment, resume: bool, watch: RankWatch) -> _Setup:
    """Join the other ranks, build this one's part, and bring it to where training goes on."""
    blend = check_data(experiment)
    mesh = _join(experiment, watch)
    check_agreement(mesh, f"the data, {blend.description}", blend.fingerprint)
    engine = build_engine(experiment, mesh, lambda named: build_optimizer(experiment, named))
    state = EngineState(engine)
    source = build_source(experiment, blend, mesh)
    data = DataRecord(fingerprint=blend.fingerprint, description=blend.description)
    resumed = resume_run(run_folder(experiment), state, experiment, data, blend.vocabulary) if resume else Resumption()
    check_steps(experiment, resumed.position.step)
    guard = Guard(experiment.guard)
    guard.watch(engine, resumed.position.loop_state)
    source.continue_at(resumed.position.step + guard.skipped_batches, resumed.position.windows)
    stopping = EarlyStopping(experiment.training.early_stopping_patience)
    stopping.restore(resumed.position.loop_state)
    progress = Progress(experiment, source.text_size)
    progress.continue_from(resumed.position.loop_state, resumed.position.step + guard.skipped_batches)
    return _Setup(mesh, state, source, guard, stopping, progress, data, blend.vocabulary, resumed)


def _join(experiment: Experiment, watch: RankWatch) -> Mesh:
    """Find the other ranks, and see that they were given the same experiment."""
    parallel = experiment.parallel
    topology = Topology(parallel.pipe, parallel.data, parallel.tensor)
    mesh = start(topology, choose_device(experiment.device), experiment.fault_tolerance.progress_timeout_seconds)
    secret = prove_membership(mesh, run_folder(experiment).launch)
    connect_watch(watch, mesh, secret)
    check_agreement(mesh, "the experiment", experiment.model_dump_json())
    engine = json_text(load_engine_config(experiment.deepspeed).raw)
    check_agreement(mesh, f"DeepSpeed JSON {experiment.deepspeed}", engine)
    return mesh


def _go_back(bad: BadStep, setup: _Setup, saver: CheckpointSaver, experiment: Experiment) -> int | None:
    """Restore the newest checkpoint after a bad step; its number of steps, or None where the step is only skipped."""
    if experiment.guard.action != "rollback":
        return None
    saver.finish()
    checkpoint, _ = newest_whole(saver.folder, setup.mesh)
    if checkpoint is None:
        return None
    position = restore_checkpoint(checkpoint, setup.state, experiment)
    setup.state.engine.stage.restore_streams({})  # what they carried on was from before the text that is gone past
    setup.guard.go_back(position.loop_state, position.step, bad.step)
    setup.stopping.restore(position.loop_state)
    setup.state.engine.gather_losses()  # of the steps taken back
    return position.step


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def _headline(experiment: Experiment, setup: _Setup, step: int) -> str:
    model, mesh, topology, vocabulary = experiment.model, setup.mesh, setup.mesh.topology, setup.vocabulary
    start = f", resumed at step {step}" if step else ""
    return (
        f"{experiment.name}: {describe_model(model)} on {setup.source.description}; "
        f"vocabulary {vocabulary.name}, {vocabulary.size} symbols; "
        f"pipe {topology.pipe_size} x tensor {topology.tensor_size} x data {topology.data_size} on {mesh.device.type}; "
        f"DeepSpeed {experiment.deepspeed}; {describe_kernels(experiment)}{start}"
    )
