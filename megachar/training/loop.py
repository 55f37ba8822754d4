"""The training loop, from top to bottom."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from megachar.config.deepspeed import load_engine_config, render_deepspeed_config
from megachar.config.schema import Experiment
from megachar.errors import ConfigError, DataError, PlatformError
from megachar.losses.auxiliary import layer_weights
from megachar.models.counting import training_flops_per_character
from megachar.parallel.engine import build_engine
from megachar.parallel.mesh import Mesh, check_agreement, choose_device, fail_together, start
from megachar.parallel.state import EngineState
from megachar.topology import Topology
from megachar.training.checkpoints.format import DataRecord
from megachar.training.checkpoints.resuming import Resumption, resume_run
from megachar.training.checkpoints.saving import CheckpointSaver, SavedCheckpoint
from megachar.training.display import Display, Report
from megachar.training.hardware import peak_flops, peak_memory_bytes, peak_memory_of_all_ranks
from megachar.training.learning_rate import learning_rate
from megachar.training.metrics import MetricsWriter, layer_bits
from megachar.training.micro_batches import MicroBatchSource
from megachar.training.optimizers import build_optimizer, describe_kernels
from megachar.training.plots import plot_run
from megachar.training.preflight import check_data
from megachar.training.run_folder import RunFolder, run_folder


def train(experiment: Experiment, resume: bool) -> None:
    """Train on this process's part of the layout; RANK, WORLD_SIZE and the like come from the environment.

    Args:
        experiment: what to train; every rank must be given the same.
        resume: go on from the newest checkpoint of the run's folder.
    """
    blend = check_data(experiment)
    parallel, training = experiment.parallel, experiment.training
    mesh = start(Topology(parallel.pipe, parallel.data, parallel.tensor), choose_device(experiment.device))
    check_agreement("the experiment", experiment.model_dump_json())
    check_agreement(f"the data, {blend.description}", blend.fingerprint)
    folder = run_folder(experiment)
    engine = build_engine(experiment, mesh, lambda named: build_optimizer(experiment, named))
    state = EngineState(engine)
    source = MicroBatchSource(experiment, blend, mesh)
    data = DataRecord(fingerprint=blend.fingerprint, description=blend.description)
    resumed = resume_run(folder, state, experiment, data) if resume else Resumption()
    step = resumed.position.step
    writer = _open_run(folder, experiment, mesh, step)
    meter = SpeedMeter(experiment, mesh)
    validation: float | None = None

    with Display(training.total_steps, step, active=mesh.is_main) as display:
        report_save = partial(_report_save, display, mesh, writer)
        saver = CheckpointSaver(folder, state, experiment, data, report_save)
        display.note(_headline(experiment, source, mesh, step))
        _report_damage(display, mesh, writer, resumed)
        while step < training.total_steps:
            weights = layer_weights(experiment.auxiliary, experiment.model.num_layers, training.total_steps, step)
            rate = learning_rate(experiment.schedule, experiment.optimizer.learning_rate, training.total_steps, step)
            engine.train_step(source.training(step), weights, rate)
            step += 1
            meter.count(weights)
            display.advance(step)
            finished = step == training.total_steps
            validates = source.validation_micro_batches > 0 and (_due(step, training.validation_interval) or finished)
            saves = _due(step, training.checkpoint_interval) or finished
            saver.poll()
            if validates or saves:
                _check_unchanged(source, saver)

            if _due(step, training.log_interval) or validates or saves:
                losses = engine.gather_losses()
                report = meter.report(step, losses.bits_per_character(), rate, engine.gradient_norm, validation)
                display.report(report)
                counters = {"skipped_steps": engine.skipped_steps, "layers": layer_bits(losses)}
                _record(writer, mesh, "train", step, {**report.record(), **counters})
                meter.restart()
            if validates:
                losses = engine.evaluate(source.validation(), source.validation_micro_batches, weights)
                validation = losses.bits_per_character()
                display.note(f"step {step}: validation {validation:.4f} bits per character")
                values = {"bits_per_character": validation, "layers": layer_bits(losses)}
                _record(writer, mesh, "validation", step, values)
                meter.restart()
            if saves:
                saver.save(step, validation if validates else None)
                meter.restart()

        saver.finish()
        peaks = peak_memory_of_all_ranks(mesh.device)
        display.note("peak memory by rank: " + ", ".join(f"{peak / 2**30:.2f} GiB" for peak in peaks))

    _record(writer, mesh, "end", step, {"memory_bytes_by_rank": peaks})
    if writer is not None:
        writer.close()
        for path in plot_run(folder):
            display.note(f"plot: {path}")


class SpeedMeter:
    """Counts characters and operations since its last restart."""

    def __init__(self, experiment: Experiment, mesh: Mesh) -> None:
        self.model, self.auxiliary, self.device = experiment.model, experiment.auxiliary, mesh.device
        self.characters_per_step = experiment.batch.global_size * experiment.model.context
        peak = peak_flops(mesh.device, load_engine_config(experiment.deepspeed).precision)
        self.peak = peak * mesh.topology.world_size if peak is not None else None
        self.restart()

    def restart(self) -> None:
        """Count from here: after a report, and after anything that was not training."""
        self._steps, self._flops, self._since = 0, 0.0, time.perf_counter()

    def count(self, weights: Sequence[float]) -> None:
        """One more step was taken, with these layer weights."""
        classifiers = float(sum(weight > 0 for weight in weights) * self.auxiliary.num_targets)
        if not self.auxiliary.multiple_positions:
            classifiers /= self.model.context
        self._flops += training_flops_per_character(self.model, classifiers) * self.characters_per_step
        self._steps += 1

    def report(
        self, step: int, bits: float, rate: float, gradient_norm: float | None, validation: float | None
    ) -> Report:
        """The figures since the last restart."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        flops = self._flops / seconds
        return Report(
            step=step,
            bits_per_character=bits,
            learning_rate=rate,
            characters_per_second=self._steps * self.characters_per_step / seconds,
            flops_per_second=flops,
            device_share=flops / self.peak if self.peak is not None else None,
            memory_bytes=peak_memory_bytes(self.device),
            gradient_norm=gradient_norm,
            validation=validation,
        )


def _open_run(folder: RunFolder, experiment: Experiment, mesh: Mesh, step: int) -> MetricsWriter | None:
    """On the main rank: record what the run is, and open its metrics. `ConfigError` on all ranks where that fails."""
    writer: MetricsWriter | None = None
    error: ConfigError | None = None
    if mesh.is_main:
        rendered = render_deepspeed_config(experiment, load_engine_config(experiment.deepspeed))
        try:
            folder.record(experiment, rendered, step)
            writer = MetricsWriter(folder)
        except OSError as failure:
            error = ConfigError(f"the run folder {folder.path} cannot be written: {failure}; make it writable, free "
                                f"space, or set output=ANOTHER")  # fmt: skip
    fail_together(mesh, error)
    return writer


def _check_unchanged(source: MicroBatchSource, saver: CheckpointSaver) -> None:
    """`DataError` on all ranks where the corpus is not what it was; a save that is under way is brought to its end."""
    try:
        source.check_unchanged()
    except DataError:
        saver.finish()
        raise


def _record(writer: MetricsWriter | None, mesh: Mesh, kind: str, step: int, values: dict[str, Any]) -> None:
    """Add to the metrics, which the main rank writes; `PlatformError` on all ranks where it cannot."""
    error: PlatformError | None = None
    if writer is not None:
        try:
            writer.write(kind, step, values)
        except PlatformError as failure:
            error = failure
    fail_together(mesh, error)


def _report_damage(display: Display, mesh: Mesh, writer: MetricsWriter | None, resumed: Resumption) -> None:
    """Name the checkpoints that a resumed run could not go on from."""
    step = resumed.position.step
    for damage in resumed.damaged:
        display.note(f"checkpoint {damage.name} is damaged, going on from step {step}: {damage.reason}")
        _record(writer, mesh, "damaged_checkpoint", step, {"name": damage.name, "reason": damage.reason})


def _report_save(display: Display, mesh: Mesh, writer: MetricsWriter | None, saved: SavedCheckpoint) -> None:
    """Say that a checkpoint is safe, and what it cost."""
    display.note(f"step {saved.step}: {saved.line()}")
    _record(writer, mesh, "checkpoint", saved.step, saved.record())


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def _headline(experiment: Experiment, source: MicroBatchSource, mesh: Mesh, step: int) -> str:
    model, topology = experiment.model, mesh.topology
    start = f", resumed at step {step}" if step else ""
    return (
        f"{experiment.name}: {model.num_layers} layers of {model.width} on {source.description}; "
        f"pipe {topology.pipe_size} x tensor {topology.tensor_size} x data {topology.data_size} on {mesh.device.type}; "
        f"DeepSpeed {experiment.deepspeed}; {describe_kernels(experiment)}{start}"
    )
