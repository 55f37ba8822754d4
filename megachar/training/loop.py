"""The training loop, from top to bottom."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from megachar.base.bars import waiting
from megachar.base.errors import Preempted
from megachar.config.experiment import Experiment
from megachar.families.counting import describe_model, step_flops
from megachar.losses.auxiliary import layer_weights
from megachar.optimizers.schedules import learning_rate, trunk_end
from megachar.parallel.mesh import any_rank
from megachar.runs.checkpoints.reading import restore_checkpoint
from megachar.runs.checkpoints.resuming import newest_whole
from megachar.runs.checkpoints.saving import CheckpointSaver, SavedCheckpoint
from megachar.runs.folder import run_folder
from megachar.runs.ownership import Claim
from megachar.training.display import Terminal
from megachar.training.guard import BadStep
from megachar.training.optimizer import describe_kernels
from megachar.training.run_log import RunLog
from megachar.training.setup import Setup, set_up
from megachar.training.speed import SpeedMeter
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
        setup = set_up(experiment, resume, watch)
    step, unit = setup.resumed.position.step, setup.vocabulary.unit
    with RunLog(experiment, setup.mesh, step, terminal, unit, claim) as log:
        finished = _Loop(experiment, setup, watch, log, claim).run()
    if not finished:
        raise Preempted


class _Loop:
    """One step after another, and what falls due between them. Every rank does the same at the same step."""

    def __init__(
        self, experiment: Experiment, setup: Setup, watch: RankWatch, log: RunLog, claim: Claim | None
    ) -> None:
        self.experiment, self.setup, self.watch, self.log = experiment, setup, watch, log
        self.mesh, self.engine, self.source = setup.mesh, setup.state.engine, setup.source
        self.guard, self.stopping, self.progress = setup.guard, setup.stopping, setup.progress
        folder = run_folder(experiment)
        self.saver = CheckpointSaver(folder, setup.state, experiment, setup.data, setup.vocabulary, self._saved, claim)
        characters_per_step = experiment.batch.global_size * experiment.model.window_length
        self.meter = SpeedMeter(characters_per_step, self.engine.engine_config.precision, self.mesh)
        self.step = setup.resumed.position.step
        self.weights: Sequence[float] = ()
        """Of the layers' losses, at the latest step."""
        self.rate = 0.0
        """The learning rate of the latest step."""
        self.validation: float | None = None
        """Bits per character of the latest."""
        self.leaves = False
        """Whether a rank was asked to leave, so that no other step is taken in this process."""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return self.step == self.experiment.training.total_steps or self.stopping.stops

    def run(self) -> bool:
        """Train to the end, or until asked to leave; whether it was the end. A whole checkpoint is left."""
        self._announce()
        while not (self.finished or self.leaves):
            self._take_step()
            if self._goes_back():
                continue
            self.log.advance(self.step)
            self.saver.poll()
            self.leaves = any_rank(self.mesh, self.watch.preempt_asked) and not self.finished
            self._do_what_is_due()
        self.saver.finish()
        self.log.end(self.step, self.finished, self._so_far["characters"])
        return self.finished

    def _announce(self) -> None:
        resumed = self.setup.resumed
        self.log.note(_headline(self.experiment, self.setup))
        self.log.damaged(self.step, resumed.damaged)
        for changed in filter(None, (resumed.changed, self.log.changed_versions)):
            self.log.note(changed)
        self.watch.progress(self.step)

    def _take_step(self) -> None:
        experiment, total, step = self.experiment, self.experiment.training.total_steps, self.step
        self.weights = layer_weights(experiment.auxiliary, experiment.model.num_layers, total, step)
        self.rate = learning_rate(experiment.schedule, experiment.optimizer.learning_rate, total, step)
        batches = self.source.training(step + self.guard.skipped_batches)
        self.engine.train_step(self.watch.each(batches), self.weights, self.rate)
        self.step += 1
        predicting = sum(weight > 0 for weight in self.weights)
        flops = step_flops(experiment.model, experiment.auxiliary, experiment.batch.global_size, predicting)
        self.progress.count(flops)
        self.meter.count(flops)
        self.watch.progress(self.step)

    def _goes_back(self) -> bool:
        """Look at the step just taken: whether a bad one has led back to an earlier checkpoint."""
        with self.saver.finishing():
            bad = self.guard.review(self.step)
        if bad is None:
            return False
        returned = self._restore(bad) if self.experiment.guard.action == "rollback" else None
        with self.saver.finishing():
            self.log.bad_step(bad, returned)
        if returned is not None:
            self.step = returned
            self.meter.restart()
        return returned is not None

    def _restore(self, bad: BadStep) -> int | None:
        """Return from a bad step to the newest checkpoint: its number of steps, None where there is none."""
        self.saver.finish()
        checkpoint, _ = newest_whole(self.saver.folder, self.mesh)
        if checkpoint is None:
            return None
        position = restore_checkpoint(checkpoint, self.setup.state, self.experiment)
        self.engine.stage.restore_streams({})  # what they carried on was from before the text that is gone past
        self.guard.go_back(position.loop_state, position.step, bad.step)
        self.stopping.restore(position.loop_state)
        self.engine.gather_losses()  # of the steps taken back
        return position.step

    def _do_what_is_due(self) -> None:
        """Log, validate and save, each at its interval and at the end of training; save where the run leaves, too."""
        training, step, last = self.experiment.training, self.step, self.finished
        # A validation that is due is made where the run leaves, too: the next process begins with the next step.
        validates = self.source.validation_micro_batches > 0 and (_due(step, training.validation_interval) or last)
        parts = step == trunk_end(self.experiment.schedule, training.total_steps)
        saves = _due(step, training.checkpoint_interval) or last or self.leaves or parts
        if validates or saves:
            with self.saver.finishing():
                self.source.check_unchanged()
        if _due(step, training.log_interval) or validates or saves:
            self._log_losses()
        if validates:
            self._validate()
        if saves:
            self._save(validated=validates)

    def _log_losses(self) -> None:
        losses = self.engine.gather_losses()
        bits, norm = losses.bits_per_character(), self.engine.gradient_norm
        report = self.meter.report(self.step, bits, self.rate, norm, self.validation)
        with self.saver.finishing():
            self.log.losses(report, losses, self.engine.skipped_steps, self._so_far)
        self.meter.restart()

    def _validate(self) -> None:
        micro_batches = self.watch.each(self.source.validation())
        losses = self.engine.evaluate(micro_batches, self.source.validation_micro_batches, self.weights)
        with self.saver.finishing():
            self.validation = self.log.validation(self.step, losses, self._so_far)
        self.stopping.count(self.validation)
        self.meter.restart()

    def _save(self, validated: bool) -> None:
        state = self.guard.state | self.stopping.state | self.progress.state | {"windows": self._windows}
        self.saver.save(self.step, self.validation if validated else None, state)
        self.meter.restart()

    def _saved(self, saved: SavedCheckpoint) -> None:
        self.watch.saved(saved.step)
        self.log.saved(saved)

    @property
    def _windows(self) -> int:
        """Of the text, read or gone past."""
        return self.source.windows_before(self.step + self.guard.skipped_batches)

    @property
    def _so_far(self) -> dict[str, Any]:
        return self.progress.record(self._windows)


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def _headline(experiment: Experiment, setup: Setup) -> str:
    topology, vocabulary, step = setup.mesh.topology, setup.vocabulary, setup.resumed.position.step
    start = f", resumed at step {step}" if step else ""
    return (
        f"{experiment.name}: {describe_model(experiment.model)} on {setup.source.description}; "
        f"vocabulary {vocabulary.name}, {vocabulary.size} symbols; "
        f"pipe {topology.pipe_size} x tensor {topology.tensor_size} x data {topology.data_size} "
        f"on {setup.mesh.device.type}; DeepSpeed {experiment.deepspeed}; "
        f"{describe_kernels(experiment.kernels, experiment.optimizer.name)}{start}"
    )
