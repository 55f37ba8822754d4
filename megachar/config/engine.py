"""The settings of a DeepSpeed JSON that belong to the engine, with their types and bounds. Imports no deepspeed.

They are narrower than DeepSpeed's own, which take "yes" for a switch, and some values with which it fails once it runs.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

LARGEST = 2**63 - 1
SCALER_KEYS: Final = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""What there is of the fp16 loss scaling's state."""


def _whole(value: Any) -> Any:
    """JSON has 5e8 for 500000000, and so have most examples of DeepSpeed's."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


Number = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=LARGEST)]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=LARGEST)]


class EngineSection(BaseModel):
    """Base of all sections. Values must be of their own types, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class AutoSection(EngineSection):
    """One in which DeepSpeed takes its default for "auto", which JSONs written for other trainers are full of."""

    @model_validator(mode="before")
    @classmethod
    def _leave_out_auto(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if value != "auto" or key in ("stage", "enabled")}


class OffloadSettings(AutoSection):
    """Where the optimizer's state or the parameters go."""

    device: Literal["none", "cpu", "nvme"] = "none"
    nvme_path: str | None = None
    buffer_count: Count = 5
    pin_memory: bool = True

    @model_validator(mode="after")
    def _check_path(self) -> "OffloadSettings":
        if self.device == "nvme" and not (self.nvme_path or "").startswith("/"):
            raise ValueError(f"device = nvme needs nvme_path, a folder from / on, and it is {self.nvme_path!r}")
        return self


class OffloadParamSettings(OffloadSettings):
    """`offload_param`."""

    buffer_size: Count = 10**8
    max_in_cpu: Number = 10**9


class OffloadOptimizerSettings(OffloadSettings):
    """`offload_optimizer`. Partial and super offload need DeepSpeed's own optimizers, and are left out."""

    pipeline_read: bool = False
    pipeline_write: bool = False
    fast_init: bool = False


class ZeroSettings(AutoSection):
    """`zero_optimization`."""

    stage: Annotated[int, Field(ge=0, le=3)] = 0
    contiguous_gradients: bool = True
    reduce_scatter: bool = True
    reduce_bucket_size: Count = 5 * 10**8
    use_multi_rank_bucket_allreduce: bool = True
    allgather_partitions: bool = True
    allgather_bucket_size: Annotated[Count, Field(multiple_of=2)] = 5 * 10**8
    overlap_comm: bool | None = None
    load_from_fp32_weights: bool = True
    offload_param: OffloadParamSettings | None = None
    offload_optimizer: OffloadOptimizerSettings | None = None
    sub_group_size: Count = 10**9
    round_robin_gradients: bool = False
    zero_hpz_partition_size: Count = 1
    zero_quantized_weights: bool = False
    zero_quantized_gradients: bool = False
    ignore_unused_parameters: bool = True
    log_trace_cache_warnings: bool = False
    stage3_prefetch_bucket_size: Number = 5 * 10**7
    stage3_param_persistence_threshold: Number = 10**5
    stage3_model_persistence_threshold: Number = LARGEST
    stage3_max_live_parameters: Number = 10**9
    stage3_max_reuse_distance: Number = 10**9
    stage3_use_all_reduce_for_fetch_params: bool = False


class Fp16Settings(AutoSection):
    """`fp16`."""

    enabled: bool = False
    loss_scale: Annotated[float, Field(ge=0, le=2.0**127)] = 0
    initial_scale_power: Annotated[int, BeforeValidator(_whole), Field(ge=0, le=127)] = 16
    loss_scale_window: Count = 1000
    hysteresis: Count = 2
    consecutive_hysteresis: bool = False
    min_loss_scale: Count = 1


class Bf16Settings(AutoSection):
    """`bf16`."""

    enabled: bool = False
    immediate_grad_update: bool = False
    check_grad_overflow: bool = True


class FlopsProfilerSettings(EngineSection):
    """`flops_profiler`."""

    enabled: bool = False
    recompute_fwd_factor: Annotated[float, Field(ge=0)] = 0
    profile_step: Count = 1
    module_depth: Annotated[int, Field(ge=-1)] = -1
    top_modules: Count = 1
    detailed: bool = True
    output_file: str | None = None


class CommsLoggerSettings(AutoSection):
    """`comms_logger`."""

    enabled: bool = False
    verbose: bool = False
    prof_all: bool = True
    debug: bool = False
    prof_ops: list[str] = []


class AioSettings(EngineSection):
    """`aio`, of offload to NVMe."""

    block_size: Count = 2**20
    queue_depth: Count = 8
    intra_op_parallelism: Count = 1
    single_submit: bool = False
    overlap_events: bool = True
    use_gds: bool = False


class ParallelWriteSettings(EngineSection):
    """`checkpoint.parallel_write`."""

    pipeline_stage: bool = False


class CheckpointSettings(EngineSection):
    """`checkpoint`, of DeepSpeed's own checkpoints."""

    tag_validation: Annotated[Literal["ignore", "warn", "fail"], BeforeValidator(_lower)] = "warn"
    load_universal: bool = False
    use_node_local_storage: bool = False
    parallel_write: ParallelWriteSettings = ParallelWriteSettings()


class ThroughputTimerSettings(AutoSection):
    """`timers.throughput`."""

    enabled: bool = True
    synchronized: bool = True


class TimerSettings(AutoSection):
    """`timers`."""

    throughput: ThroughputTimerSettings = ThroughputTimerSettings()


class EngineSettings(EngineSection):
    """The whole JSON."""

    zero_optimization: ZeroSettings = ZeroSettings()
    fp16: Fp16Settings = Fp16Settings()
    bf16: Bf16Settings = Bf16Settings()
    communication_data_type: Annotated[Literal["fp32", "fp16", "bf16"] | None, BeforeValidator(_lower)] = None
    prescale_gradients: bool = False
    gradient_predivide_factor: Annotated[float, Field(gt=0)] = 1.0
    wall_clock_breakdown: bool = False
    memory_breakdown: bool = False
    dump_state: bool = False
    flops_profiler: FlopsProfilerSettings = FlopsProfilerSettings()
    comms_logger: CommsLoggerSettings = CommsLoggerSettings()
    aio: AioSettings = AioSettings()
    disable_allgather: bool = False
    checkpoint: CheckpointSettings = CheckpointSettings()
    timers: TimerSettings = TimerSettings()
