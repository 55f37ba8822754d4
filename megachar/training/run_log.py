"""Everything a run says of itself: shown on the terminal and recorded in its folder, both by the main rank."""

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from megachar.base.errors import ConfigError, MegacharError
from megachar.config.deepspeed import render_deepspeed_config
from megachar.config.experiment import Experiment
from megachar.data.vocabulary import Unit
from megachar.parallel.engine import LossSums
from megachar.parallel.mesh import Mesh, fail_together
from megachar.runs.checkpoints.resuming import Damage
from megachar.runs.checkpoints.saving import SavedCheckpoint
from megachar.runs.folder import run_folder
from megachar.runs.metrics import MetricsWriter, layer_bits
from megachar.runs.ownership import Claim
from megachar.runs.plots import plot_run
from megachar.runs.summary import Ending, summarize
from megachar.runs.versions import describe_versions, record_versions
from megachar.training.display import Display, Report, Terminal
from megachar.training.guard import BadStep
from megachar.training.hardware import peak_memory_of_all_ranks


class RunLog:
    """A context manager around training. Every rank must make every call; what cannot be written raises on all."""

    def __init__(
        self,
        experiment: Experiment,
        mesh: Mesh,
        step: int,
        terminal: Terminal | None = None,
        unit: Unit = "character",
        claim: Claim | None = None,
    ) -> None:
        """Record what the run is, and go on with its metrics after `step` steps; `unit`: what its losses are of.

        Raises:
            ConfigError: the run folder cannot be written.
            OwnershipError: by the main rank's `claim`, it is another's now; as from all other calls.
        """
        self.experiment, self.mesh, self.folder = experiment, mesh, run_folder(experiment)
        self._unit, self._claim = unit, claim
        self._display = Display(experiment.training.total_steps, step, mesh.is_main, terminal, unit)
        self._first_step, self._started = step, time.monotonic()
        self._writer: MetricsWriter | None = None
        self.changed_versions = ""
        """In one line, what the run trains with or on that it did not before; on the main rank."""
        error: MegacharError | None = None
        versions = describe_versions(mesh)
        if mesh.is_main:
            rendered = render_deepspeed_config(experiment)
            try:
                self._check_claim()
                self.folder.record(experiment, rendered, step)
                self.changed_versions = record_versions(self.folder, versions, step)
                self._writer = MetricsWriter(self.folder, step)
            except MegacharError as failure:
                error = failure
            except OSError as failure:
                error = ConfigError(f"the run folder {self.folder.path} cannot be written: {failure}; make it "
                                    f"writable, free space, or set output=ANOTHER")  # fmt: skip
        fail_together(mesh, error)

    def __enter__(self) -> "RunLog":
        self._display.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.__exit__(kind, error, trace)

    def note(self, text: str) -> None:
        """Show a line."""
        self._display.note(text)

    def advance(self, step: int) -> None:
        """`step` steps are done."""
        self._display.advance(step)

    def losses(self, report: Report, losses: LossSums, skipped_steps: int, so_far: dict[str, Any]) -> None:
        """The figures of an interval, unless all its steps were refused; `so_far`: `Progress.record`."""
        if not losses.counts.any():
            return
        self._display.report(report)
        counters = {"skipped_steps": skipped_steps, "layers": layer_bits(losses)}
        self._record("train", report.step, {**report.record(), **so_far, **counters, **self._named})

    def validation(self, step: int, losses: LossSums, so_far: dict[str, Any]) -> float:
        """Returns the bits per character, or whatever the unit is; `so_far`: `Progress.record`."""
        bits = losses.bits_per_character()
        self.note(f"step {step}: validation {bits:.4f} bits per {self._unit}")
        values = {"bits_per_character": bits, "layers": layer_bits(losses)}
        self._record("validation", step, {**values, **so_far, **self._named})
        return bits

    def bad_step(self, bad: BadStep, returned: int | None) -> None:
        """A step that was refused; `returned`: to the checkpoint of so many steps, None where it was only skipped."""
        action = (
            "update skipped" if returned is None else f"back to the checkpoint of step {returned}, past its batches"
        )
        self.note(f"step {bad.step}: {action}: {bad.reason}")
        if returned is None:
            self._record("guard", bad.step, {**bad.record, "action": "skip"})
            return
        self._on_all(lambda writer: writer.go_back(returned))
        self._record("guard", bad.step, {**bad.record, "action": "rollback", "returned_to": returned})
        self.advance(returned)

    def saved(self, saved: SavedCheckpoint) -> None:
        """A checkpoint that is safe on disk."""
        self.note(f"step {saved.step}: {saved.line()}")
        self._record("checkpoint", saved.step, saved.record())

    def damaged(self, step: int, damaged: Sequence[Damage]) -> None:
        """Checkpoints that were passed over when the run was resumed at `step`."""
        for damage in damaged:
            self.note(f"checkpoint {damage.name} is damaged, continuing from step {step}: {damage.reason}")
            self._record("damaged_checkpoint", step, {"name": damage.name, "reason": damage.reason})

    def end(self, step: int, finished: bool, characters: int) -> None:
        """Record what is known only at the end, plot a finished run, and sum up; `characters`: read so far."""
        if finished and step < self.experiment.training.total_steps:
            patience = self.experiment.training.early_stopping_patience
            self.note(f"step {step}: no new lowest validation in {patience} of them: training ends early")
        peaks = peak_memory_of_all_ranks(self.mesh.device)
        self.note("peak memory by rank: " + ", ".join(f"{peak / 2**30:.2f} GiB" for peak in peaks))
        self._record("end", step, {"memory_bytes_by_rank": peaks})
        if self._writer is not None:
            self._writer.close()
            if finished:
                self._plot()
            ending = Ending(self._first_step, step, characters, time.monotonic() - self._started, finished)
            self.note("\n".join(summarize(self.experiment, ending)))

    def _plot(self) -> None:
        """Draw the pictures. A run has done its work, whatever stands in the way of them."""
        try:
            for path in plot_run(self.folder):
                self.note(f"plot: {path}")
        except Exception as error:
            self.note(f"no pictures: {type(error).__name__}: {error}; draw them by megachar plot {self.folder.path}")

    @property
    def _named(self) -> dict[str, str]:
        """What a record says of its unit: nothing, unless its names are wrong."""
        return {} if self._unit == "character" else {"unit": self._unit}

    def _record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        self._on_all(lambda writer: writer.write(kind, step, values))

    def _on_all(self, write: Callable[[MetricsWriter], None]) -> None:
        """Let the main rank write; what fails there raises on every rank."""
        error: MegacharError | None = None
        if self._writer is not None:
            try:
                self._check_claim()
                write(self._writer)
            except MegacharError as failure:
                error = failure
        fail_together(self.mesh, error)

    def _check_claim(self) -> None:
        if self._claim is not None:
            self._claim.check()
