"""The loop, and what happens when a step or a rank goes wrong. Imports no torch."""

from typing import Literal

from pydantic import Field

from megachar.config.sections.section import MAX_SECONDS, MAX_STEPS, MAX_WINDOWS, Section


class TrainingConfig(Section):
    """The loop: how long, and what happens how often."""

    total_steps: int = Field(default=1000, ge=1, le=MAX_STEPS)
    """Optimizer steps of the whole run; schedules are stretched over it."""
    gradient_clipping: float = Field(default=0.0, ge=0.0)
    """Largest global gradient norm; 0 is off."""
    log_interval: int = Field(default=10, ge=1, le=MAX_STEPS)
    """Steps between two lines of metrics."""
    validation_interval: int = Field(default=500, ge=0, le=MAX_STEPS)
    """Steps between two validations; 0: only at the end."""
    validation_windows: int = Field(default=64, ge=1, le=MAX_WINDOWS)
    """Windows of the valid split in one validation, spread evenly. With `data.order: streams`: segments of
    `batch.global_size` streams over the split, each read from its start, and all there are where they are fewer.
    Rounded up to whole batches of `batch.global_size`, so that every layout validates on the same."""
    early_stopping_patience: int = Field(default=0, ge=0, le=MAX_STEPS)
    """Validations in a row without a new lowest loss after which training ends; 0 is off."""
    checkpoint_interval: int = Field(default=1000, ge=0, le=MAX_STEPS)
    """Steps between two checkpoints; 0: only at the end."""
    keep_checkpoints: int = Field(default=2, ge=1, le=MAX_STEPS)
    """Newest checkpoints kept; older ones are deleted once a newer one is whole and was read back from the disk."""
    keep_best_checkpoint: bool = True
    """Also keep the one with the lowest validation loss, of those saved at a step that ended in a validation."""
    allow_other_data: bool = False
    """Let a run be resumed on another corpus than the one it was saved with."""

    @property
    def max_checkpoints(self) -> int:
        """Most checkpoints on the disk at once: the newest, the best, and one that is being written."""
        return self.keep_checkpoints + int(self.keep_best_checkpoint) + 1


class GuardConfig(Section):
    """What happens to a step whose loss or gradient norm is not finite, or spikes. All ranks decide as one.

    A value spikes if it is above the median of the last `window` good steps by more than `spike_deviations` times
    their standard deviation (1.4826 x the median absolute deviation) and by more than `spike_fraction` of the median.
    The loss is the mean of the last layer's first target over the step, in nats; the gradient norm is that before
    clipping. An fp16 overflow that a lower loss scale answers is not a bad step.
    """

    action: Literal["skip", "rollback", "off"] = "skip"
    """`skip`: the update is not applied, training goes on with the next step's batches; `rollback`: back to the newest
    checkpoint, and past the batches of all steps since then (where there is none yet: skip). `off`: nothing is checked.
    On by default: one update from a NaN ends a run for good, and the check costs no more than one pass over the
    gradients and one small sum over the ranks."""
    window: int = Field(default=100, ge=2, le=MAX_WINDOWS)
    """Good steps that spikes are measured by; until there are as many, only what is not finite is bad."""
    spike_deviations: float = Field(default=10.0, ge=0.0)
    """Standard deviations above the median that are a spike; 0 is off: only what is not finite is bad."""
    spike_fraction: float = Field(default=0.2, ge=0.0)
    """Share of the median that a spike is above it at least, however steady the steps before were."""
    max_consecutive: int = Field(default=5, ge=1, le=MAX_STEPS)
    """Bad steps in a row at which training stops with an error; after a rollback, without a good one past them."""


class FaultToleranceConfig(Section):
    """After how long a run that goes wrong is ended. Deaths and errors are noticed at once."""

    heartbeat_timeout_seconds: float = Field(default=60.0, ge=0, le=MAX_SECONDS)
    """All ranks have ended this long after one was last heard of: its process is stopped, or its host is gone. Below
    15 s it may take 3 s longer. 0 is off."""
    progress_timeout_seconds: float = Field(default=600.0, ge=0, le=MAX_SECONDS)
    """All ranks have ended this long after one last made progress: it hangs, or never came. Longer than the longest
    micro-batch, checkpoint and start. 0 is off."""
