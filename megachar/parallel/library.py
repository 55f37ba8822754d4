"""DeepSpeed as it is used here: its version is checked, and this file alone names what is private to it.

What costs seconds for nothing is replaced. Nothing under an engine is compiled by torch.compile. Yet torch's optimizers
import its compiler (1.0 s of CPU for `torch._dynamo`) to mark what it should leave alone, DeepSpeed has it set up for
Muon's kernels, which no configuration of ours uses (0.9 s), and collects garbage several times to print memory figures
(1.0 s).

DeepSpeed holds reduced gradients in five ways: in the parameters (fp32 without ZeRO), in whole fp32 copies (its bf16
optimizer), in flat partitions (ZeRO 1 and 2), in a piece of every parameter (ZeRO 3), or in host memory (offload).
Read in the source of 0.19.8: runtime/engine.py, bf16_optimizer.py, zero/stage_1_and_2.py, zero/stage3.py.
"""

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from megachar.base.errors import ConfigError, PlatformError
from megachar.config.deepspeed import EngineConfig

SUPPORTED = ((0, 19, 8), (0, 20, 0))
MARKED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
"""Methods of torch.optim.Optimizer that import the compiler when they are first called; so does `step`."""


def load_deepspeed() -> Any:
    """The package. DS_ACCELERATOR must say by now which device it is for.

    Raises:
        PlatformError: it is not a supported version.
    """
    import deepspeed
    from deepspeed.runtime import bf16_optimizer, compiler

    check_deepspeed_version(deepspeed.__version__)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # Asked only for a shared-memory all-reduce for inference, which DeepSpeed would compile for a minute on every CPU
    # machine. Left to itself it would try a compiler for each of its operations first (0.6 s).
    deepspeed.ops.__compatible_ops__ = {}
    bf16_optimizer.see_memory_usage = _say_nothing
    compiler.compile = _compile_nothing
    _spare_the_compiler()
    return deepspeed


def check_engine_settings(rendered: dict[str, Any]) -> None:
    """Build DeepSpeed's own model of a rendered configuration; no process group is needed.

    Raises:
        ConfigError: DeepSpeed refuses it.
    """
    from deepspeed.runtime.config import DeepSpeedConfig

    # Without a process group it takes itself for one rank.
    size = rendered["train_micro_batch_size_per_gpu"] * rendered["gradient_accumulation_steps"]
    try:
        DeepSpeedConfig({**rendered, "train_batch_size": size})
    except Exception as error:  # whatever it may be: it is about what the user wrote
        raise ConfigError(f"DeepSpeed refuses its settings: {error}") from error


def check_deepspeed_version(version: str) -> None:
    """Raise `PlatformError` for a DeepSpeed whose pipeline scales gradients otherwise than ours expects."""
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:3])
    lowest, beyond = SUPPORTED
    if not lowest <= numbers < beyond:
        raise PlatformError(f"deepspeed {version} is not supported; install deepspeed>=0.19.8,<0.20")


def judge_updates(deepspeed: Any, judge: Callable[[], bool]) -> None:
    """Have `judge` say before every update, once the gradients are reduced, whether it is made.

    Both engines come through `_take_model_step`, in which they clip, update and zero the gradients. What is refused is
    to be discarded by the judge.
    """
    update = deepspeed._take_model_step

    def take_model_step(lr_kwargs: Any) -> None:
        if judge():
            update(lr_kwargs)

    deepspeed._take_model_step = take_model_step


def sum_norms_once(deepspeed: Any, norm_squares: Callable[[], Tensor]) -> None:
    """Have ZeRO 1 and 2 take their norm by one sum over all ranks.

    They sum for each group of parameters, over the stages as well: stages with other groups would wait for each other.

    Args:
        deepspeed: the engine.
        norm_squares: gives this rank's share of the squared global norm, a scalar.
    """

    def scaled_global_norm(norm_type: int = 2) -> Tensor:
        squares = norm_squares()
        dist.all_reduce(squares)
        return squares.sqrt().float()

    if hasattr(deepspeed.optimizer, "params_in_partition"):
        deepspeed.optimizer.scaled_global_norm = scaled_global_norm


def clear_gradients(parameters: Iterable[Any], config: EngineConfig, device: torch.device) -> None:
    """Zero the gradients of parameters that took part in no loss of this step.

    ZeRO 3 and offload keep one gradient buffer for good and would apply a silent parameter's last gradient, and count
    it in the norm, at every step to come.
    """
    if config.zero_stage < 3 and not config.offload:
        return
    from deepspeed.utils import safe_set_full_grad, safe_set_local_grad

    for parameter in parameters:
        if config.zero_stage == 3:
            safe_set_local_grad(parameter, torch.zeros(parameter.ds_tensor.numel(), device=device))
        else:
            safe_set_full_grad(parameter, torch.zeros_like(parameter))


def gradient_squares(
    deepspeed: Any, parameters: Iterable[nn.Parameter], config: EngineConfig, data_size: int, device: torch.device
) -> Tensor:
    """(2,) in float64, on the device: this rank's share of the squared global norm, and of what must not count in it.

    Shares add up over all ranks. Not counted are the parameters that another tensor rank holds as well; their squares
    are only to be looked at, for a rank's own copy may go wrong alone.

    Args:
        deepspeed: the engine.
        parameters: of this rank's stage.
        config: the engine's settings.
        data_size: number of data ranks.
        device: of the rank.
    """
    counted: list[Tensor] = []
    copies: list[Tensor] = []
    for gradient, parameter in _local_gradients(deepspeed.optimizer, parameters, config):
        (counted if _counts(parameter) else copies).append(gradient)
    norms = [get_total_norm(gradients).to(device, torch.float64) for gradients in (counted, copies)]
    whole_on_every_replica = config.zero_stage == 0 or _is_bf16_optimizer(deepspeed.optimizer)
    replicas = data_size if whole_on_every_replica else 1
    return torch.stack(norms).square() / replicas


def discard_gradients(deepspeed: Any, config: EngineConfig) -> None:
    """Drop the reduced gradients of a step that is not to be taken, and count the step as DeepSpeed would."""
    optimizer = deepspeed.optimizer
    if config.zero_stage == 0:
        deepspeed.zero_grad()
    elif _is_bf16_optimizer(optimizer):
        optimizer.zero_grad()
    elif config.zero_stage == 3:
        _discard_partitioned_parameters(optimizer)
    else:
        _discard_partitions(optimizer, config)
    deepspeed._step_applied = False
    deepspeed.global_steps += 1
    deepspeed.global_samples += deepspeed.train_batch_size()


def can_lower_loss_scale(optimizer: Any) -> bool:
    """Whether fp16 gradients that overflow are answered by a lower loss scale, which DeepSpeed then does."""
    scaler = optimizer.loss_scaler
    return bool(scaler.dynamic and scaler.cur_scale > scaler.min_scale)


class HeldParameters(ABC):
    """Reads and writes this rank's parameters: their fp32 values (key None), or an optimizer state by its key."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    @abstractmethod
    def read(self, parameter: nn.Parameter, key: str | None) -> Tensor: ...

    @abstractmethod
    def write(self, parameter: nn.Parameter, key: str | None, value: Tensor) -> None: ...

    @property
    def masters(self) -> list[Tensor]:
        """The fp32 tensors that the optimizer updates."""
        return [parameter for group in inner_optimizer(self._optimizer).param_groups for parameter in group["params"]]

    def link_state(self) -> None:
        """Let DeepSpeed know of optimizer state that was made for it."""
        link = getattr(self._optimizer, "_lazy_init_hp_params_optimizer_state", None)
        if link is not None:
            link()


class _Whole(HeldParameters):
    """fp32 without ZeRO: the parameter is its own master."""

    def _tensor(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        return parameter.data if key is None else self._optimizer.state[parameter][key]

    def read(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        return self._tensor(parameter, key)

    def write(self, parameter: nn.Parameter, key: str | None, value: Tensor) -> None:
        self._tensor(parameter, key).copy_(value)


class _Partitioned(HeldParameters):
    """ZeRO 1, 2 and the bf16 optimizer: each data rank owns a fragment of the fp32 value."""

    def read(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if key is None:
            return safe_get_full_fp32_param(parameter)
        return safe_get_full_optimizer_state(parameter, key)

    def write(self, parameter: nn.Parameter, key: str | None, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if key is not None:
            safe_set_full_optimizer_state(parameter, value, key)
            return
        safe_set_full_fp32_param(parameter, value)
        parameter.data.copy_(value)  # every rank's working copy, not only its fragment


class _Partitioned3(_Partitioned):
    """ZeRO 3: each data rank owns a padded piece of the working copy and of the fp32 value."""

    def __init__(self, optimizer: Any, data_rank: int, data_size: int) -> None:
        super().__init__(optimizer)
        self._data_rank, self._data_size = data_rank, data_size

    def write(self, parameter: nn.Parameter, key: str | None, value: Tensor) -> None:
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        held: Any = parameter
        local = local_piece(held, value, self._data_rank, self._data_size)
        if key is not None:
            safe_set_local_optimizer_state(parameter, local, key)
            return
        safe_set_local_fp32_param(parameter, local)
        held.ds_tensor.data.copy_(local)
        if parameter.numel() == value.numel():  # small parameters stay gathered
            parameter.data.copy_(value.view_as(parameter))

    @property
    def masters(self) -> list[Tensor]:
        return list(self._optimizer.fp32_partitioned_groups_flat)  # parameter groups are empty outside a step


def held_parameters(optimizer: Any, zero_stage: int, data_rank: int, data_size: int) -> HeldParameters:
    """What reads and writes parameters under DeepSpeed's optimizer."""
    if zero_stage == 3:
        return _Partitioned3(optimizer, data_rank, data_size)
    return (_Partitioned if zero_stage > 0 else _Whole)(optimizer)


def working_copy(parameter: Any) -> Tensor:
    """What the rank computes with; under ZeRO 3 its piece of that."""
    held: Tensor = getattr(parameter, "ds_tensor", parameter)
    return held.detach()


def local_piece(parameter: Any, whole: Tensor, data_rank: int, data_size: int) -> Tensor:
    """Of a whole tensor what this data rank holds for a parameter: under ZeRO 3 a flat, padded piece, else all."""
    if not hasattr(parameter, "ds_tensor"):
        return whole
    size = parameter.ds_tensor.numel()
    padded = torch.zeros(size * data_size, dtype=whole.dtype, device=whole.device)
    padded[: whole.numel()] = whole.flatten()
    return padded.narrow(0, size * data_rank, size)


def inner_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The torch or apex optimizer under DeepSpeed's wrapper, or the optimizer itself."""
    inner = getattr(optimizer, "optimizer", optimizer)
    assert isinstance(inner, torch.optim.Optimizer)
    return inner


def _discard_partitions(optimizer: Any, config: EngineConfig) -> None:
    """What ZeRO 1 and 2 do with the gradients of an overflow, without its change of the loss scale.

    And more: under offload they keep the sums of an overflow, and would add the next step's gradients to them.
    """
    from deepspeed.runtime.zero.stage_1_and_2 import INITIAL_MICRO_STEP_ID

    optimizer.micro_step_id = INITIAL_MICRO_STEP_ID
    optimizer.zero_grad()
    optimizer._release_preflattened_grad_buffers()
    if config.offload:
        optimizer._offload_accumulated_param_ids = set()
        optimizer.reset_cpu_buffers()
    for group in optimizer.averaged_gradients:
        optimizer.averaged_gradients[group] = optimizer.all_grad_tensors[group] = None


def _discard_partitioned_parameters(optimizer: Any) -> None:
    """The same for ZeRO 3, which also ends its step's bookkeeping and lets go of the gathered parameters."""
    optimizer._pre_step()
    optimizer._partition_all_parameters()
    optimizer._overflow_clean_up(optimizer.loss_scale)


def _local_gradients(
    optimizer: Any, parameters: Iterable[nn.Parameter], config: EngineConfig
) -> Iterator[tuple[Tensor, nn.Parameter]]:
    """Reduced gradients that this rank holds, or numbers of the same norm, and the parameter of each."""
    if config.zero_stage == 0:
        for parameter in parameters:
            if parameter.grad is not None:
                yield parameter.grad, parameter
    elif _is_bf16_optimizer(optimizer):
        for group, parameters in enumerate(optimizer.bf16_groups):
            yield from zip(optimizer.fp32_groups_gradients[group], parameters, strict=True)
    elif hasattr(optimizer, "norm_for_param_grads"):  # taken on the device, on the gradients' way to the host
        groups = optimizer.fp16_groups if config.zero_stage == 3 else optimizer.params_in_partition
        for parameter in (parameter for group in groups for parameter in group):
            norm = optimizer.norm_for_param_grads.get(optimizer.get_param_id(parameter))
            if norm is not None:
                yield norm, parameter
    else:
        groups = optimizer.fp16_groups if config.zero_stage == 3 else optimizer.params_in_partition
        for group, parameters in enumerate(groups):
            gradients = (g for g in optimizer.averaged_gradients[group] if not getattr(g, "_zero_padding", False))
            yield from zip(gradients, parameters, strict=False)  # a partition without parameters is one of zeros


def _counts(parameter: Any) -> bool:
    return bool(parameter.tensor_model_parallel)


def _is_bf16_optimizer(optimizer: Any) -> bool:
    from deepspeed.runtime.bf16_optimizer import BF16_Optimizer

    return isinstance(optimizer, BF16_Optimizer)


def _spare_the_compiler() -> None:
    """Have torch's optimizers work without importing its compiler.

    What the marks prevent is the compiler's looking into these methods, which nobody asks of it here.
    """
    for name in MARKED:
        plain = inspect.unwrap(getattr(torch.optim.Optimizer, name))
        plain.__dynamo_disable = plain  # where torch keeps the marked method, once it has one
    kind: Any
    for kind in (torch.optim.AdamW, torch.optim.SGD):
        kind.step = torch.no_grad()(inspect.unwrap(kind.step))


def _say_nothing(message: str, force: bool = False) -> None:
    """In place of `see_memory_usage`."""


def _compile_nothing() -> Callable[[Any], Any]:
    """In place of a decorator that compiles."""
    return lambda function: function
