"""Every setting of an experiment: one frozen, typed section per component. This file imports no torch.

A setting lives here or in the DeepSpeed JSON (see `megachar.config.deepspeed`), never in both.
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from megachar.config.recurrent import RecurrentConfig
from megachar.config.section import MAX_LAYERS, MAX_RANKS, MAX_SECONDS, MAX_SIZE, MAX_STEPS, MAX_WINDOWS, Section


def _kind(key: str, default: str) -> Discriminator:
    """Tells sections of one name apart by one of their keys, which may be left out for the default."""
    return Discriminator(lambda section: section.get(key, default) if isinstance(section, dict) else
                         getattr(section, key, default))  # fmt: skip


class BlendPart(Section):
    """One of several corpora that are read together."""

    path: str = Field(min_length=1)
    """Folder of a prepared corpus."""
    weight: float = Field(gt=0, allow_inf_nan=False)
    """Its part of the windows, in any unit: weights 7 and 3 are 0.7 and 0.3, exactly."""


class DataConfig(Section):
    """Where the text comes from and in which order it is read."""

    path: str = ""
    """Folder of a prepared corpus (train/valid/test .bin and .idx, dataset.json). A run keeps absolute paths."""
    blend: tuple[BlendPart, ...] = ()
    """Several corpora instead of `path`: [{path: a, weight: 7}, {path: b, weight: 3}]. After any number of windows each
    corpus is less than one window off its share; validation windows are shared out likewise. Off: []."""
    order: Literal["random", "epoch", "streams"] = "random"
    """`random`: independent random windows, as in the paper; `epoch`: one shuffled pass after another; `streams`: the
    text cut into `batch.global_size` streams that are read side by side, for recurrent models, which carry their state
    from one step to the next, and only for them."""
    windows: Literal["stream", "document"] = "stream"
    """`stream`: windows lie anywhere in the text; `document`: inside one document each, and documents shorter than a
    window (context plus targets) are left out."""

    @property
    def parts(self) -> tuple[BlendPart, ...]:
        """The corpora to read, whichever of `path` and `blend` names them; none where neither does."""
        return self.blend or ((BlendPart(path=self.path, weight=1),) if self.path else ())


class TransformerConfig(Section):
    """The transformer of Al-Rfou et al. (2019), section 2."""

    family: Literal["transformer"] = "transformer"
    """Tells this section from that of the recurrent models, `recurrent`."""
    num_layers: int = Field(default=12, ge=1, le=MAX_LAYERS)
    """Number of transformer blocks."""
    width: int = Field(default=512, ge=1, le=MAX_SIZE)
    """Size of the hidden state, d."""
    num_heads: int = Field(default=2, ge=1, le=MAX_SIZE)
    """Attention heads per block; must divide `width`."""
    feed_forward_width: int = Field(default=2048, ge=1, le=MAX_SIZE)
    """Size of the ReLU layer, f."""
    context: int = Field(default=512, ge=1, le=MAX_SIZE)
    """Window in characters, t."""
    vocabulary_size: int = Field(default=256, ge=2, le=MAX_SIZE)
    """Number of symbols, V. Without it that of the corpus which is trained on; given, it must be the corpus'."""
    positions: Literal["learned", "sinusoidal"] = "learned"
    """`learned`: a table per layer added to the input of every layer; `sinusoidal`: the fixed table instead."""
    local_offsets: tuple[tuple[int, ...], ...] = ()
    """Per layer, how many characters back each of its first heads starts out looking: [[1, 2], [1, 4]] sets two heads
    of the first two layers. A way to start training (`models.initialization`), not a constraint. Off: []."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Drop probability on the attention weights and on the ReLU layer; 0 is off."""

    @property
    def window_length(self) -> int:
        """Characters of one row of a batch."""
        return self.context

    @property
    def drops_out(self) -> bool:
        """Whether training draws masks."""
        return self.dropout > 0


ModelConfig = Annotated[
    Annotated[TransformerConfig, Tag("transformer")] | Annotated[RecurrentConfig, Tag("recurrent")],
    _kind("family", "transformer"),
]


class AuxiliaryConfig(Section):
    """The auxiliary losses (Al-Rfou et al. 2019, section 3). Each can be switched off on its own."""

    multiple_positions: bool = True
    """Every position of the window predicts; off: only the last one."""
    intermediate_layers: bool = True
    """Layers below the last predict through classifiers of their own, until their schedule silences them."""
    decay: Literal["drop", "linear"] = "drop"
    """Weight of an intermediate layer until it falls silent: 1 throughout, or falling linearly to 0."""
    interval_steps: float | None = Field(default=None, gt=0, le=MAX_STEPS)
    """Steps between two layers falling silent: layer l is silent from step l * interval.
    Off (null): total_steps / (2 n), so that layer l stops after l/(2n) of training."""
    num_targets: int = Field(default=2, ge=1, le=MAX_SIZE)
    """How many following characters each position predicts; 1 switches multiple targets off."""
    extra_target_weight: float = Field(default=0.5, ge=0.0)
    """Weight of the losses of the second and later targets."""
    reduction: Literal["sum", "mean"] = "sum"
    """How the active intermediate layers' losses are added to the last layer's."""


class SgdConfig(Section):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    learning_rate: float = Field(default=0.003, gt=0)
    momentum: float = Field(default=0.99, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decay of matrices; 0 is off. Biases, norms, embeddings and position tables are never decayed."""


class AdamWConfig(Section):
    """AdamW (Loshchilov and Hutter 2019)."""

    name: Literal["adamw"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    beta2: float = Field(default=0.95, ge=0.0, lt=1.0)
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decay of matrices; 0 is off. Biases, norms, embeddings and position tables are never decayed."""


class NormalizedRMSpropConfig(Section):
    """RMSprop whose updates all have one length (Krause et al. 2016, equation 22)."""

    name: Literal["normalized_rmsprop"] = "normalized_rmsprop"
    learning_rate: float = Field(default=10.0, gt=0)
    """Length of an update, l: the Euclidean norm of the change of all parameters together."""
    decay: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Of the mean square, per update."""
    epsilon: float = Field(default=1e-6, gt=0)
    """Added to the mean square."""


OptimizerConfig = Annotated[
    Annotated[SgdConfig, Tag("sgd")]
    | Annotated[AdamWConfig, Tag("adamw")]
    | Annotated[NormalizedRMSpropConfig, Tag("normalized_rmsprop")],
    _kind("name", "adamw"),
]


class ScheduleConfig(Section):
    """Learning rate over training, as a factor of `optimizer.learning_rate`."""

    shape: Literal["constant", "cosine", "linear", "exponential"] = "constant"
    """After the warm-up: constant, half a cosine or a straight line down to `final_fraction`, or `step_factor` of the
    rate before at every step, but not below `final_fraction`."""
    warmup_steps: int = Field(default=0, ge=0, le=MAX_STEPS)
    """Steps over which the rate rises linearly from 0; 0 is off."""
    final_fraction: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the peak rate at the last step (cosine and linear), or the lowest (exponential)."""
    step_factor: float | None = Field(default=None, gt=0.0, le=1.0)
    """Factor of the rate per step (exponential only, which needs it). Off: null."""


class BatchConfig(Section):
    """Batch arithmetic. A step has global_size / micro_size micro-batches, whatever the layout."""

    micro_size: int = Field(default=16, ge=1, le=MAX_SIZE)
    """Windows in one micro-batch, b: what one forward pass sees."""
    global_size: int = Field(default=16, ge=1, le=MAX_WINDOWS)
    """Windows in one step over all data ranks."""

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of a step, over all data ranks."""
        return self.global_size // self.micro_size


class ParallelConfig(Section):
    """How the model and the batch are cut over processes: pipe x tensor x data of them."""

    pipe: int = Field(default=1, ge=1, le=MAX_RANKS)
    """Pipeline stages the layers are cut into."""
    tensor: int = Field(default=1, ge=1, le=MAX_RANKS)
    """Ranks every matrix is cut over; must divide the heads."""
    data: int = Field(default=1, ge=1, le=MAX_RANKS)
    """Replicas that share the micro-batches of a step."""
    activation_checkpoint_interval: int = Field(default=0, ge=0, le=MAX_LAYERS)
    """Recompute activations in the backward pass, in groups of this many blocks; 0 is off."""

    @property
    def world_size(self) -> int:
        """Processes the layout needs."""
        return self.pipe * self.tensor * self.data


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


class DeepSpeedFile(Section):
    """A DeepSpeed JSON of the user's own, as a run keeps it."""

    path: str
    """Where it was read."""
    content: dict[str, Any]
    """What it held then, which counts."""

    def __str__(self) -> str:
        return self.path


class Experiment(Section):
    """One experiment: what `megachar launch` runs and what is saved beside the run as resolved.yaml."""

    name: str = Field(default="experiment", max_length=255, pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")
    """Name of the run; its folder is `output`/`name`."""
    output: str = "runs"
    """Folder in which run folders are made."""
    seed: int = Field(default=1, ge=0, lt=2**63)
    """Seed of initial weights, windows and dropout masks."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; `auto` takes CUDA where there is one."""
    kernels: Literal["torch", "apex"] = "torch"
    """Layer norm and fused optimizers: torch's, or NVIDIA apex's where importable. The run says which it took."""
    deepspeed: str | DeepSpeedFile = "fp32"
    """DeepSpeed JSON: a name in ds_configs/ or a path. It owns ZeRO, precision, offload and communication. A run keeps
    what a file of your own held when it was started."""
    data: DataConfig = DataConfig()
    model: ModelConfig = TransformerConfig()
    auxiliary: AuxiliaryConfig = AuxiliaryConfig()
    optimizer: OptimizerConfig = AdamWConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    batch: BatchConfig = BatchConfig()
    parallel: ParallelConfig = ParallelConfig()
    training: TrainingConfig = TrainingConfig()
    guard: GuardConfig = GuardConfig()
    fault_tolerance: FaultToleranceConfig = FaultToleranceConfig()
