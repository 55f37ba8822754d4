"""The training loop, from top to bottom."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from rich.console import Console

from megachar.config.schema import Experiment
from megachar.data.vocabulary import Vocabulary
from megachar.device import choose_device
from megachar.errors import DataError, Preempted
from megachar.losses.auxiliary import layer_weights
from megachar.models.counting import describe_model
from megachar.parallel.engine import build_engine
from megachar.parallel.mesh import Mesh, any_rank, check_agreement, start
from megachar.parallel.proof import prove_membership
from megachar.parallel.state import EngineState
from megachar.topology import Topology
from megachar.training.checkpoints.format import DataRecord
from megachar.training.checkpoints.reading import restore_checkpoint
from megachar.training.checkpoints.resuming import Resumption, newest_whole, resume_run
from megachar.training.checkpoints.saving import CheckpointSaver, SavedCheckpoint
from megachar.training.early_stopping import EarlyStopping
from megachar.training.garbage import no_collection
from megachar.training.guard import BadStep, Guard
from megachar.training.learning_rate import learning_rate
from megachar.training.micro_batches import MicroBatchSource, build_source
from megachar.training.optimizers import build_optimizer, describe_kernels
from megachar.training.preflight import check_data
from megachar.training.run_folder import run_folder
from megachar.training.run_log import RunLog
from megachar.training.speed import SpeedMeter
from megachar.training.watching import connect_watch
from megachar.watch.rank import RankWatch


def train(experiment: Experiment, resume: bool, watch: RankWatch, terminal: Console | None = None) -> None:
    """Train on this process's part of the layout; RANK, WORLD_SIZE and the like come from the environment.

    Args:
        experiment: what to train; every rank must be given the same.
        resume: go on from the newest checkpoint of the run's folder.
        watch: runs beside it, and ends this process when another one fails.
        terminal: where the main rank draws its progress bar, if not on standard output.

    Raises:
        Preempted: on every rank, after a checkpoint, if any was asked to leave.
    """
    training = experiment.training
    setup = _set_up(experiment, resume, watch)
    mesh, state, source, guard, stopping = setup.mesh, setup.state, setup.source, setup.guard, setup.stopping
    engine, step = state.engine, setup.resumed.position.step
    meter = SpeedMeter(experiment, mesh)
    validation: float | None = None

    with RunLog(experiment, mesh, step, terminal, setup.vocabulary.unit) as log:
        saver = _build_saver(experiment, setup, partial(_saved, watch, log))
        log.note(_headline(experiment, setup, step))
        log.damaged(step, setup.resumed.damaged)
        watch.progress(step)
        while step < training.total_steps and not stopping.stops:
            weights = layer_weights(experiment.auxiliary, experiment.model.num_layers, training.total_steps, step)
            rate = learning_rate(experiment.schedule, experiment.optimizer.learning_rate, training.total_steps, step)
            batches = source.training(step + guard.skipped_batches)
            engine.train_step(watch.each(batches), weights, rate)
            step += 1
            watch.progress(step)
            bad = guard.review(step)
            if bad is not None:
                returned = _go_back(bad, setup, saver, experiment)
                log.bad_step(bad, returned)
                if returned is not None:
                    step = returned
                    meter.restart()
                    continue
            meter.count(weights)
            log.advance(step)
            saver.poll()
            finished = step == training.total_steps
            leaves = any_rank(mesh, watch.preempt_asked) and not finished
            validates = source.validation_micro_batches > 0 and (_due(step, training.validation_interval) or finished)
            validates, saves = validates and not leaves, _due(step, training.checkpoint_interval) or finished or leaves
            if validates or saves:
                _check_unchanged(source, saver)
            if _due(step, training.log_interval) or validates or saves:
                losses = engine.gather_losses()
                report = meter.report(step, losses.bits_per_character(), rate, engine.gradient_norm, validation)
                log.losses(report, losses, engine.skipped_steps)
                meter.restart()
            if validates:
                losses = engine.evaluate(watch.each(source.validation()), source.validation_micro_batches, weights)
                validation = log.validation(step, losses)
                stopping.count(validation)
                meter.restart()
            if saves:
                saver.save(step, validation if validates else None, guard.state | stopping.state)
                meter.restart()
            if leaves:
                break
        saver.finish()
        finished = step == training.total_steps or stopping.stops
        log.end(step, finished)
    if not finished:
        raise Preempted


@dataclass(frozen=True)
class _Setup:
    """What training works with."""

    mesh: Mesh
    state: EngineState
    source: MicroBatchSource
    guard: Guard
    stopping: EarlyStopping
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
    guard = Guard(experiment.guard)
    guard.watch(engine, resumed.position.loop_state)
    stopping = EarlyStopping(experiment.training.early_stopping_patience)
    stopping.restore(resumed.position.loop_state)
    return _Setup(mesh, state, source, guard, stopping, data, blend.vocabulary, resumed)


def _join(experiment: Experiment, watch: RankWatch) -> Mesh:
    """Find the other ranks, and see that they were given the same experiment."""
    parallel = experiment.parallel
    topology = Topology(parallel.pipe, parallel.data, parallel.tensor)
    mesh = start(topology, choose_device(experiment.device), experiment.fault_tolerance.progress_timeout_seconds)
    secret = prove_membership(mesh, run_folder(experiment).launch)
    connect_watch(watch, mesh, secret)
    check_agreement(mesh, "the experiment", experiment.model_dump_json())
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


def _check_unchanged(source: MicroBatchSource, saver: CheckpointSaver) -> None:
    """`DataError` on all ranks where the corpus is not what it was; a save that is under way is brought to its end."""
    try:
        source.check_unchanged()
    except DataError:
        saver.finish()
        raise


def _build_saver(experiment: Experiment, setup: _Setup, report: Callable[[SavedCheckpoint], None]) -> CheckpointSaver:
    folder = run_folder(experiment)
    return CheckpointSaver(folder, setup.state, experiment, setup.data, setup.vocabulary, report)


def _saved(watch: RankWatch, log: RunLog, saved: SavedCheckpoint) -> None:
    watch.saved(saved.step)
    log.saved(saved)


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
