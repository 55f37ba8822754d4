"""The DeepSpeed JSON: read, checked for keys that are not its own and for wrong values, rendered whole.

Imports no deepspeed.
"""

import difflib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from megachar.base.errors import ConfigError
from megachar.base.files import reason
from megachar.base.resources import resource_folder
from megachar.config.engine import EngineSettings
from megachar.config.experiment import DeepSpeedFile, Experiment
from megachar.optimizers.optimizer import OptimizerConfig

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


class EngineConfig(BaseModel):
    """What the DeepSpeed JSON says, as far as megachar's own code depends on it."""

    model_config = ConfigDict(frozen=True)

    precision: Literal["fp32", "fp16", "bf16"]
    """Type of weights in the forward and backward pass; masters and losses are always fp32."""
    zero_stage: int
    """0 to 3."""
    offload: bool
    """Optimizer state or parameters live on the CPU."""
    needs_gpu: tuple[str, ...]
    """What is set that works on GPUs only; fp16, which some CPUs can, is not named."""
    settings: EngineSettings
    """All that it says, defaults included."""
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
        ConfigError: no such file, not JSON, an unknown key, a wrong value, or a key the experiment owns.
    """
    if isinstance(source, DeepSpeedFile):
        return _engine_config(source.content, source.path)
    path = Path(source) if source.endswith(".json") else DS_CONFIGS / f"{source}.json"
    try:
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in DS_CONFIGS.glob("*.json")))
            raise ConfigError(
                f"deepspeed={source}: {path} does not exist; take one of {known}, or the path of a .json file"
            )
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from error
    except OSError as error:
        raise ConfigError(f"deepspeed={source} cannot be read: {reason(error)}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds {type(raw).__name__}, not a JSON object of DeepSpeed settings")
    return _engine_config(raw, str(path))


def _engine_config(raw: dict[str, Any], path: str) -> EngineConfig:
    """See that the content of a JSON makes sense; `path` is for messages."""
    settings = _parse_settings(raw, path)
    zero, fp16, bf16 = settings.zero_optimization, settings.fp16, settings.bf16
    if fp16.enabled and bf16.enabled:
        raise ConfigError(f"{path} enables both fp16 and bf16; keep one")
    for key in ("gradient_predivide_factor", "prescale_gradients"):
        value = getattr(settings, key)
        if value != EngineSettings.model_fields[key].default and zero.stage >= 2 and zero.reduce_scatter:
            raise ConfigError(
                f"{path}: {key} = {value} does not work with ZeRO stage {zero.stage} and "
                f"zero_optimization.reduce_scatter; leave it out, or set reduce_scatter to false"
            )
    return EngineConfig(
        precision="fp16" if fp16.enabled else "bf16" if bf16.enabled else "fp32",
        zero_stage=zero.stage,
        offload=any(part and part.device != "none" for part in (zero.offload_param, zero.offload_optimizer)),
        needs_gpu=tuple(_needs_gpu(settings)),
        settings=settings,
        raw=raw,
    )


def render_deepspeed_config(experiment: Experiment) -> dict[str, Any]:
    """The whole dictionary handed to DeepSpeed: the user's engine keys, and every default that matters written out."""
    batch, parallel, engine = experiment.batch, experiment.parallel, load_engine_config(experiment.deepspeed)
    return {
        "prescale_gradients": False,
        **engine.raw,
        "zero_optimization": _zero(experiment.optimizer, engine),
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


def _zero(optimizer: OptimizerConfig, engine: EngineConfig) -> dict[str, Any]:
    """ZeRO's section. An optimizer whose norm is over all parameters must be given all of them at once."""
    zero = {"stage": 0, **engine.raw.get("zero_optimization", {})}
    if optimizer.takes_one_norm and engine.zero_stage == 3:
        return {**zero, "sub_group_size": sys.maxsize}
    return zero


def _parse_settings(raw: dict[str, Any], path: str) -> EngineSettings:
    """The JSON's settings; all that is wrong with them in one message."""
    for key in raw:
        if key in OWNED_BY_EXPERIMENT:
            owner = OWNED_BY_EXPERIMENT[key]
            raise ConfigError(f"{path}: {key!r} is owned by the experiment ({owner}); remove it from the JSON")
    try:
        return EngineSettings.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(dict.fromkeys(_explain(dict(problem)) for problem in error.errors()))
        raise ConfigError(f"{path}: {problems}") from error


def _explain(problem: dict[str, Any]) -> str:
    """One pydantic problem: the key, the value and the mend."""
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        section: Any = EngineSettings
        for part in location[:-1]:
            annotation = section.model_fields[part].annotation
            section = next((kind for kind in get_args(annotation) if kind is not type(None)), annotation)
        known = section.model_fields
        close = difflib.get_close_matches(location[-1], known, n=1)
        return f"{key} is unknown; " + (
            f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"
        )
    said = (
        "it must be a JSON object"
        if problem["type"] == "model_type"
        else problem["msg"].replace("Input should", "it must")
    )
    if problem["type"] == "value_error":  # by one of our own validators, of a whole section
        return f"{key}: {problem['msg'].removeprefix('Value error, ')}"
    return f"{key} = {problem['input']!r}; {said}"


def _needs_gpu(settings: EngineSettings) -> Iterator[str]:
    """What is set that DeepSpeed does on GPUs only, but for fp16, which some CPUs can."""
    zero = settings.zero_optimization
    for key in ("zero_quantized_weights", "zero_quantized_gradients"):
        if getattr(zero, key):
            yield f"zero_optimization.{key}"
    for key in ("offload_param", "offload_optimizer"):
        offload = getattr(zero, key)
        if offload is not None and offload.device == "nvme":
            yield f"zero_optimization.{key}.device = nvme"
    if settings.aio.use_gds:
        yield "aio.use_gds"
