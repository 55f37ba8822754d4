"""The DeepSpeed JSON: read, checked for unknown and doubly owned keys, and rendered whole. Imports no deepspeed."""

import difflib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from megachar.config.schema import DeepSpeedFile, Experiment
from megachar.errors import ConfigError
from megachar.resources import resource_folder

DS_CONFIGS = resource_folder("ds_configs")

OWNED_BY_EXPERIMENT = {
    "train_batch_size": "batch.global_size",
    "train_micro_batch_size_per_gpu": "batch.micro_size",
    "gradient_accumulation_steps": "batch.global_size, batch.micro_size and parallel.data",
    "gradient_clipping": "training.gradient_clipping",
    "optimizer": "optimizer",
    "scheduler": "schedule",
    "steps_per_print": "training.log_interval",
    "seed": "seed",
    "pipeline": "parallel",
    "activation_checkpointing": "parallel.activation_checkpoint_interval",
    "tensor_parallel": "parallel.tensor",
    "data_types": "nothing: megachar always accumulates gradients in fp32",
    "tensorboard": "nothing: megachar writes TensorBoard itself",
    "csv_monitor": "nothing: megachar writes metrics.jsonl itself",
    "wandb": "nothing: megachar writes metrics.jsonl itself",
    "zero_allow_untested_optimizer": "optimizer",
    "zero_force_ds_cpu_optimizer": "optimizer",
}
"""Keys of DeepSpeed's JSON that the experiment decides, and the setting that does."""

ENGINE_KEYS = {
    "zero_optimization", "fp16", "bf16", "communication_data_type", "prescale_gradients",
    "gradient_predivide_factor", "wall_clock_breakdown", "memory_breakdown", "dump_state",
    "flops_profiler", "comms_logger", "aio", "disable_allgather", "checkpoint", "timers",
}  # fmt: skip
"""Keys that belong to the engine alone and are passed on as they stand."""

ZERO_KEYS = {
    "stage", "contiguous_gradients", "reduce_scatter", "reduce_bucket_size", "use_multi_rank_bucket_allreduce",
    "allgather_partitions", "allgather_bucket_size", "overlap_comm", "load_from_fp32_weights", "offload_param",
    "offload_optimizer", "sub_group_size", "round_robin_gradients", "zero_hpz_partition_size",
    "zero_quantized_weights", "zero_quantized_gradients", "ignore_unused_parameters", "log_trace_cache_warnings",
    "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold", "stage3_model_persistence_threshold",
    "stage3_max_live_parameters", "stage3_max_reuse_distance", "stage3_use_all_reduce_for_fetch_params",
}  # fmt: skip
FP16_KEYS = {"enabled", "loss_scale", "initial_scale_power", "loss_scale_window", "hysteresis",
             "consecutive_hysteresis", "min_loss_scale"}  # fmt: skip
BF16_KEYS = {"enabled", "immediate_grad_update", "check_grad_overflow"}


class EngineConfig(BaseModel):
    """What the DeepSpeed JSON says, as far as megachar's own code depends on it."""

    model_config = ConfigDict(frozen=True)

    precision: Literal["fp32", "fp16", "bf16"]
    """Type of weights in the forward and backward pass; masters and losses are always fp32."""
    zero_stage: int
    """0 to 3."""
    offload: bool
    """Optimizer state or parameters live on the CPU."""
    raw: dict[str, Any]
    """The JSON as the user wrote it."""


def with_deepspeed_content(experiment: Experiment) -> Experiment:
    """The experiment with what a DeepSpeed JSON of the user's own holds now, whatever becomes of that file.

    Raises:
        ConfigError: as `load_engine_config`.
    """
    given = experiment.deepspeed
    if isinstance(given, DeepSpeedFile) or not given.endswith(".json"):
        return experiment
    kept = DeepSpeedFile(path=given, content=load_engine_config(given).raw)
    return experiment.model_copy(update={"deepspeed": kept})


def load_engine_config(source: str | DeepSpeedFile) -> EngineConfig:
    """Read a DeepSpeed JSON by its name in ds_configs/ or by path, or take the content of one that was read before.

    Raises:
        ConfigError: no such file, not JSON, an unknown key, or a key the experiment owns.
    """
    if isinstance(source, DeepSpeedFile):
        return _engine_config(source.content, source.path)
    path = Path(source) if source.endswith(".json") else DS_CONFIGS / f"{source}.json"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in DS_CONFIGS.glob("*.json")))
        raise ConfigError(
            f"deepspeed={source}: {path} does not exist; take one of {known}, or the path of a .json file"
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds {type(raw).__name__}, not a JSON object of DeepSpeed settings")
    return _engine_config(raw, str(path))


def _engine_config(raw: dict[str, Any], path: str) -> EngineConfig:
    """See that the content of a JSON makes sense; `path` is for messages."""
    _check_keys(raw, ENGINE_KEYS, path, "")
    zero = _section(raw, "zero_optimization", ZERO_KEYS, path)
    fp16 = _section(raw, "fp16", FP16_KEYS, path)
    bf16 = _section(raw, "bf16", BF16_KEYS, path)
    stage = zero.get("stage", 0)
    if stage not in (0, 1, 2, 3):
        raise ConfigError(f"{path}: zero_optimization.stage = {stage!r}; it must be 0, 1, 2 or 3")
    for name, section in (("fp16", fp16), ("bf16", bf16)):
        if not isinstance(section.get("enabled", False), bool):
            raise ConfigError(f"{path}: {name}.enabled = {section['enabled']!r}; it must be true or false")
    for name in ("offload_optimizer", "offload_param"):
        if not isinstance(zero.get(name) or {}, dict):
            raise ConfigError(f"{path}: zero_optimization.{name} = {zero[name]!r} is not a JSON object; "
                              f'write {{"device": "cpu"}}')  # fmt: skip
    if fp16.get("enabled") and bf16.get("enabled"):
        raise ConfigError(f"{path} enables both fp16 and bf16; keep one")
    precision: Literal["fp32", "fp16", "bf16"] = "fp16" if fp16.get("enabled") else "fp32"
    if bf16.get("enabled"):
        precision = "bf16"
    offload = any(
        (zero.get(key) or {}).get("device", "none") != "none" for key in ("offload_optimizer", "offload_param")
    )
    return EngineConfig(precision=precision, zero_stage=stage, offload=offload, raw=raw)


def render_deepspeed_config(experiment: Experiment, engine: EngineConfig) -> dict[str, Any]:
    """The whole dictionary handed to DeepSpeed: the user's engine keys, and every default that matters written out."""
    batch, parallel = experiment.batch, experiment.parallel
    return {
        "zero_optimization": {"stage": 0},
        "prescale_gradients": False,
        **engine.raw,
        "train_batch_size": batch.global_size,
        "train_micro_batch_size_per_gpu": batch.micro_size,
        "gradient_accumulation_steps": batch.num_micro_batches // parallel.data,
        "gradient_clipping": experiment.training.gradient_clipping,
        "steps_per_print": None,
        "data_types": {"grad_accum_dtype": "fp32"},
        # The stages checkpoint their own activations and tensor ranks hold whole hidden states.
        "pipeline": {
            "activation_checkpoint_interval": 0,
            "use_reentrant": False,
            "pipe_partitioned": False,
            "grad_partitioned": False,
        },
        # Optimizers are torch's or apex's, built by megachar, also under ZeRO and offload.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def _section(raw: dict[str, Any], name: str, known: set[str], path: str) -> dict[str, Any]:
    section = raw.get(name, {})
    if not isinstance(section, dict):
        raise ConfigError(f"{path}: {name} = {section!r} is not a JSON object")
    _check_keys(section, known, path, f"{name}.")
    return section


def _check_keys(values: dict[str, Any], known: set[str], path: str, prefix: str) -> None:
    for key in values:
        if not prefix and key in OWNED_BY_EXPERIMENT:
            owner = OWNED_BY_EXPERIMENT[key]
            raise ConfigError(f"{path}: {key!r} is owned by the experiment ({owner}); remove it from the JSON")
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"
            raise ConfigError(f"{path}: {prefix}{key} is unknown; {hint}")
