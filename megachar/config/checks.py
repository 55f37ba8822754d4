"""Settings that are valid alone but do not fit each other. All found before any process starts."""

from megachar.base.errors import ConfigError
from megachar.config.deepspeed import EngineConfig, load_engine_config
from megachar.config.experiment import Experiment
from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.config.sections.data import DataConfig
from megachar.config.sections.model import ModelConfig
from megachar.config.sections.section import MAX_RANKS
from megachar.optimizers.optimizer import OptimizerConfig
from megachar.optimizers.schedules import first_cooldown_step


def check_experiment(experiment: Experiment, engine: EngineConfig | None = None) -> None:
    """Raise `ConfigError` naming both values and the nearest setting that works, for the first misfit found.

    `engine`: what the experiment's DeepSpeed JSON says, where that has been read already.
    """
    _check_data(experiment.data)
    experiment.model.part("checks").check(experiment.model, experiment.data, experiment.auxiliary, experiment.parallel)
    _check_scale(experiment.model, experiment.optimizer, experiment.auxiliary)
    _check_batch(experiment)
    _check_schedule(experiment)
    _check_engine(experiment, engine or load_engine_config(experiment.deepspeed))


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


def _check_scale(model: ModelConfig, optimizer: OptimizerConfig, auxiliary: AuxiliaryConfig) -> None:
    """What the rules for width and depth ask for."""
    if model.base is model:
        return
    if not optimizer.follows_scale:
        raise ConfigError(
            f"model.base_width and model.base_layers scale rates as Adam needs it, and optimizer.name = "
            f"{optimizer.name}; set optimizer.name=adamw, or both to null"
        )
    if auxiliary.intermediate_layers and auxiliary.reduction != "mean":
        raise ConfigError(
            f"auxiliary.reduction = {auxiliary.reduction} grows with the number of layers, and model.base_layers and "
            f"model.base_width are to make sizes independent of it; set auxiliary.reduction=mean"
        )


def _check_batch(experiment: Experiment) -> None:
    batch, parallel = experiment.batch, experiment.parallel
    if parallel.world_size > MAX_RANKS:
        raise ConfigError(
            f"parallel.pipe = {parallel.pipe} x parallel.tensor = {parallel.tensor} x parallel.data = {parallel.data} "
            f"are {parallel.world_size:,} processes; set fewer, {MAX_RANKS:,} at most"
        )
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
    if schedule.shape == "wsd" and schedule.warmup_steps > first_cooldown_step(schedule, total):
        raise ConfigError(
            f"schedule.warmup_steps = {schedule.warmup_steps} reaches into the last schedule.cooldown_fraction = "
            f"{schedule.cooldown_fraction} of training.total_steps = {total}; set schedule.warmup_steps={total // 10}"
        )
    if (schedule.shape == "exponential") != (schedule.step_factor is not None):
        raise ConfigError(
            f"schedule.step_factor = {schedule.step_factor} and schedule.shape = {schedule.shape}: the factor belongs "
            f"to shape exponential, which needs one; set both, such as schedule.shape=exponential "
            f"schedule.step_factor=0.9999, or schedule.step_factor=null"
        )
    training = experiment.training
    if training.early_stopping_patience and not training.validation_interval:
        raise ConfigError(
            f"training.early_stopping_patience = {training.early_stopping_patience} counts validations, and "
            f"training.validation_interval = 0 makes none; set it to 500 or so"
        )
    every, saved = training.validation_interval, training.checkpoint_interval
    if training.early_stopping_patience and (not saved or every % saved or not training.keep_best_checkpoint):
        raise ConfigError(
            f"training.early_stopping_patience = {training.early_stopping_patience} ends with the best model behind, "
            f"which must be saved: set training.checkpoint_interval={every} as training.validation_interval, and "
            f"training.keep_best_checkpoint=true"
        )


def _check_engine(experiment: Experiment, engine: EngineConfig) -> None:
    parallel = experiment.parallel
    if experiment.optimizer.takes_one_norm and engine.offload:
        raise ConfigError(
            f"optimizer.name = {experiment.optimizer.name} takes one norm over all parameters, on the device, and "
            f"{experiment.deepspeed} offloads them; take optimizer.name=adamw, or a DeepSpeed JSON without offload"
        )
    zero = engine.raw.get("zero_optimization", {})
    if experiment.optimizer.takes_one_norm and engine.zero_stage == 3 and "sub_group_size" in zero:
        raise ConfigError(
            f"optimizer.name = {experiment.optimizer.name} takes one norm over all parameters, and "
            f"{experiment.deepspeed} cuts them by "
            f"zero_optimization.sub_group_size = {zero['sub_group_size']}; leave that out of the JSON"
        )
    if experiment.optimizer.takes_one_norm and parallel.pipe * parallel.tensor > 1:
        raise ConfigError(
            f"optimizer.name = {experiment.optimizer.name} takes one norm over all parameters, and parallel.pipe = "
            f"{parallel.pipe}, parallel.tensor = {parallel.tensor} cut them; set both to 1, or optimizer.name=adamw"
        )
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
    settings = engine.settings
    if parallel.pipe > 1 and (settings.wall_clock_breakdown or settings.flops_profiler.enabled):
        key = "wall_clock_breakdown" if settings.wall_clock_breakdown else "flops_profiler"
        raise ConfigError(
            f"{key} ({experiment.deepspeed}) does not work with parallel.pipe = {parallel.pipe}, where DeepSpeed would "
            f"start its timer of the backward pass twice; leave it out, or set parallel.pipe=1"
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
    _check_zero(experiment, engine)


def _check_zero(experiment: Experiment, engine: EngineConfig) -> None:
    zero, parallel = engine.settings.zero_optimization, experiment.parallel
    if zero.stage == 2 and not zero.ignore_unused_parameters and experiment.auxiliary.intermediate_layers:
        raise ConfigError(
            f"zero_optimization.ignore_unused_parameters = false ({experiment.deepspeed}) ends a run when the first "
            f"intermediate layer falls silent; set it to true, or auxiliary.intermediate_layers=false"
        )
    if zero.stage == 2 and zero.offload_param is not None and zero.offload_param.device != "none":
        raise ConfigError(
            f"zero_optimization.offload_param ({experiment.deepspeed}) needs ZeRO stage 3 and has 2, which keeps whole "
            f"parameters; leave it out, or set zero_optimization.stage to 3"
        )
    size = zero.zero_hpz_partition_size
    if zero.stage == 3 and size > 1 and (parallel.tensor > 1 or parallel.data % min(size, parallel.data)):
        raise ConfigError(
            f"zero_optimization.zero_hpz_partition_size = {size} ({experiment.deepspeed}) does not divide "
            f"parallel.data = {parallel.data}, or parallel.tensor = {parallel.tensor} cuts what it would "
            f"share; set it to 1"
        )
