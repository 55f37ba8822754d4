"""Settings that are valid alone but do not fit each other. All found before any process starts."""

import math

from megachar.config.deepspeed import EngineConfig, load_engine_config
from megachar.config.schema import DataConfig, Experiment, ModelConfig
from megachar.errors import ConfigError


def check_experiment(experiment: Experiment) -> None:
    """Raise `ConfigError` naming both values and the nearest setting that works, for the first misfit found."""
    _check_data(experiment.data)
    _check_model(experiment)
    _check_batch(experiment)
    _check_schedule(experiment)
    _check_engine(experiment, load_engine_config(experiment.deepspeed))


def _check_data(data: DataConfig) -> None:
    paths = [part.path for part in data.blend]
    if data.path and paths:
        raise ConfigError(
            f"data.path = {data.path} and data.blend ({', '.join(paths)}) both say what to read; "
            f"set data.path='' or data.blend=[]"
        )
    for path in paths:
        if paths.count(path) > 1:
            raise ConfigError(f"data.blend names {path} more than once; name it once with the sum of its weights")


def _check_model(experiment: Experiment) -> None:
    model, parallel = experiment.model, experiment.parallel
    if model.width % model.num_heads:
        raise ConfigError(
            f"model.width = {model.width} is not divisible by model.num_heads = {model.num_heads}; "
            f"set model.num_heads={_nearest_divisor(model.width, model.num_heads)}"
        )
    _check_local_offsets(model)
    if model.num_layers < parallel.pipe:
        raise ConfigError(
            f"model.num_layers = {model.num_layers} is less than parallel.pipe = {parallel.pipe}: "
            f"every stage needs a layer; set parallel.pipe={model.num_layers} or fewer"
        )
    common = math.gcd(model.num_heads, model.feed_forward_width, model.vocabulary_size)
    for name, value in (("num_heads", model.num_heads), ("feed_forward_width", model.feed_forward_width),
                        ("vocabulary_size", model.vocabulary_size)):  # fmt: skip
        if value % parallel.tensor:
            raise ConfigError(
                f"model.{name} = {value} is not divisible by parallel.tensor = {parallel.tensor}; "
                f"set parallel.tensor={_nearest_divisor(common, parallel.tensor)}"
            )


def _check_local_offsets(model: ModelConfig) -> None:
    offsets = model.local_offsets
    if not offsets:
        return
    if model.positions != "learned":
        raise ConfigError(
            f"model.local_offsets = {offsets} start from learned tables, and model.positions = {model.positions}; "
            f"set model.positions=learned or model.local_offsets=[]"
        )
    if len(offsets) > model.num_layers or max(len(heads) for heads in offsets) > model.num_heads:
        raise ConfigError(
            f"model.local_offsets = {offsets} name more than model.num_layers = {model.num_layers} layers of "
            f"model.num_heads = {model.num_heads} heads; leave the surplus out"
        )
    wrong = [offset for heads in offsets for offset in heads if not 1 <= offset < model.context]
    if wrong:
        raise ConfigError(
            f"model.local_offsets holds {wrong[0]}, which is not between 1 and model.context - 1 = {model.context - 1}"
        )


def _check_batch(experiment: Experiment) -> None:
    batch, parallel = experiment.batch, experiment.parallel
    if batch.global_size % (batch.micro_size * parallel.data):
        unit = batch.micro_size * parallel.data
        raise ConfigError(
            f"batch.global_size = {batch.global_size} is not a multiple of batch.micro_size x parallel.data = "
            f"{batch.micro_size} x {parallel.data} = {unit}; "
            f"set batch.global_size={max(1, round(batch.global_size / unit)) * unit}"
        )


def _check_schedule(experiment: Experiment) -> None:
    schedule, total = experiment.schedule, experiment.training.total_steps
    if schedule.warmup_steps >= total:
        raise ConfigError(
            f"schedule.warmup_steps = {schedule.warmup_steps} leaves nothing of training.total_steps = {total}; "
            f"set schedule.warmup_steps={total // 10} or train longer"
        )
    if experiment.auxiliary.num_targets >= experiment.model.context:
        raise ConfigError(
            f"auxiliary.num_targets = {experiment.auxiliary.num_targets} is not less than "
            f"model.context = {experiment.model.context}; set model.context={experiment.auxiliary.num_targets + 1}"
        )


def _check_engine(experiment: Experiment, engine: EngineConfig) -> None:
    parallel = experiment.parallel
    if parallel.pipe > 1 and engine.zero_stage > 1:
        raise ConfigError(
            f"ZeRO stage {engine.zero_stage} ({experiment.deepspeed}) does not work with parallel.pipe = "
            f"{parallel.pipe}: a pipeline keeps whole gradients; take ZeRO stage 1, or set parallel.pipe=1"
        )
    if parallel.pipe > 1 and engine.offload:
        raise ConfigError(
            f"offload ({experiment.deepspeed}) does not work with parallel.pipe = {parallel.pipe}; "
            f"take a DeepSpeed JSON without offload, or set parallel.pipe=1"
        )
    if engine.precision != "fp32" and engine.zero_stage == 0:
        raise ConfigError(
            f"{engine.precision} ({experiment.deepspeed}) needs ZeRO stage 1 or more, which holds the fp32 master "
            f"weights; set zero_optimization.stage to 1"
        )
    if engine.offload and engine.zero_stage < 2:
        raise ConfigError(
            f"offload ({experiment.deepspeed}) needs ZeRO stage 2 or 3 and has {engine.zero_stage}; "
            f"set zero_optimization.stage to 2"
        )


def _nearest_divisor(value: int, wanted: int) -> int:
    return min((d for d in range(1, value + 1) if value % d == 0), key=lambda d: (abs(d - wanted), d))
