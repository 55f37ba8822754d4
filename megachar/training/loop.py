"""The training loop, from top to bottom."""

import time
from collections.abc import Sequence

from rich.console import Console

from megachar.config.deepspeed import load_engine_config, render_deepspeed_config
from megachar.config.schema import Experiment
from megachar.losses.auxiliary import layer_weights
from megachar.models.counting import training_flops_per_character
from megachar.parallel.engine import LossSums, build_engine
from megachar.parallel.mesh import Mesh, check_agreement, choose_device, start
from megachar.parallel.state import EngineState
from megachar.topology import Topology
from megachar.training.checkpoints.format import list_checkpoints
from megachar.training.checkpoints.reading import Position, restore_checkpoint
from megachar.training.checkpoints.saving import save_checkpoint
from megachar.training.display import Display, Report
from megachar.training.guard import BadStep, Guard
from megachar.training.hardware import peak_flops, peak_memory_bytes, peak_memory_of_all_ranks
from megachar.training.learning_rate import learning_rate
from megachar.training.metrics import MetricsWriter, layer_bits
from megachar.training.micro_batches import MicroBatchSource
from megachar.training.optimizers import build_optimizer, describe_kernels
from megachar.training.plots import plot_run
from megachar.training.preflight import check_data
from megachar.training.run_folder import RunFolder, run_folder


def train(experiment: Experiment, resume: bool, terminal: Console | None = None) -> None:
    """Train on this process's part of the layout; RANK, WORLD_SIZE and the like come from the environment.

    Args:
        experiment: what to train; every rank must be given the same.
        resume: go on from the newest checkpoint of the run's folder.
        terminal: where the main rank draws its progress bar, if not on standard output.
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
    saved = list_checkpoints(folder) if resume else []  # a run that stopped before its first starts anew
    position = restore_checkpoint(saved[-1], state, experiment) if saved else Position(0, {})
    step, guard = position.step, Guard(experiment.guard)
    guard.watch(engine, position.loop_state)
    writer = _open_run(folder, experiment, mesh, step)
    meter = SpeedMeter(experiment, mesh)
    validation: float | None = None

    with Display(training.total_steps, step, active=mesh.is_main, terminal=terminal) as display:
        display.note(_headline(experiment, source, mesh, step))
        while step < training.total_steps:
            weights = layer_weights(experiment.auxiliary, experiment.model.num_layers, training.total_steps, step)
            rate = learning_rate(experiment.schedule, experiment.optimizer.learning_rate, training.total_steps, step)
            engine.train_step(source.training(step + guard.skipped_batches), weights, rate)
            step += 1
            bad = guard.review(step)
            if bad is not None:
                returned = _go_back(bad, guard, folder, state, experiment)
                _log_bad_step(bad, returned, display, writer)
                if returned is not None:
                    step = returned
                    meter.restart()
                    continue
            meter.count(weights)
            display.advance(step)
            finished = step == training.total_steps
            validates = source.validation_micro_batches > 0 and (_due(step, training.validation_interval) or finished)
            saves = _due(step, training.checkpoint_interval) or finished

            if _due(step, training.log_interval) or validates or saves:
                losses = engine.gather_losses()
                report = meter.report(step, losses.bits_per_character(), rate, engine.gradient_norm, validation)
                _log_losses(report, losses, engine.skipped_steps, display, writer)
                meter.restart()
            if validates:
                losses = engine.evaluate(source.validation(), source.validation_micro_batches, weights)
                validation = _log_validation(step, losses, display, writer)
                meter.restart()
            if saves:
                path = save_checkpoint(folder, state, step, experiment, guard.state)
                display.note(f"step {step}: saved {path}")
                meter.restart()

        peaks = peak_memory_of_all_ranks(mesh.device)
        display.note("peak memory by rank: " + ", ".join(f"{peak / 2**30:.2f} GiB" for peak in peaks))

    if writer is not None:
        writer.write("end", step, {"memory_bytes_by_rank": peaks})
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
    """On the main rank: record what the run is, and open its metrics."""
    if not mesh.is_main:
        return None
    folder.record(experiment, render_deepspeed_config(experiment, load_engine_config(experiment.deepspeed)), step)
    return MetricsWriter(folder)


def _log_losses(
    report: Report, losses: LossSums, skipped_steps: int, display: Display, writer: MetricsWriter | None
) -> None:
    """Show and record an interval, unless all its steps were refused."""
    if not losses.counts.any():
        return
    display.report(report)
    if writer is not None:
        counters = {"skipped_steps": skipped_steps, "layers": layer_bits(losses)}
        writer.write("train", report.step, {**report.record(), **counters})


def _log_validation(step: int, losses: LossSums, display: Display, writer: MetricsWriter | None) -> float:
    """Show, record and return the bits per character of a validation."""
    bits = losses.bits_per_character()
    display.note(f"step {step}: validation {bits:.4f} bits per character")
    if writer is not None:
        writer.write("validation", step, {"bits_per_character": bits, "layers": layer_bits(losses)})
    return bits


def _go_back(bad: BadStep, guard: Guard, folder: RunFolder, state: EngineState, experiment: Experiment) -> int | None:
    """Restore the newest checkpoint after a bad step; its number of steps, or None where the step is only skipped."""
    saved = list_checkpoints(folder) if experiment.guard.action == "rollback" else []
    if not saved:
        return None
    position = restore_checkpoint(saved[-1], state, experiment)
    guard.go_back(position.loop_state, position.step, bad.step)
    state.engine.gather_losses()  # of the steps taken back
    return position.step


def _log_bad_step(bad: BadStep, returned: int | None, display: Display, writer: MetricsWriter | None) -> None:
    """Say what was wrong with a step and what was done about it."""
    action = "update skipped" if returned is None else f"back to the checkpoint of step {returned}, past its batches"
    display.note(f"step {bad.step}: {action}: {bad.reason}")
    if writer is not None:
        writer.write("guard", bad.step, {**bad.record, "action": "skip" if returned is None else "rollback"})


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
