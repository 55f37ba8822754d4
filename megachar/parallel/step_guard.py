"""Between a step's backward passes and its update: what the step's gradients are like, and how to drop them.

DeepSpeed holds reduced gradients in five ways: in the parameters (fp32 without ZeRO), in whole fp32 copies (its bf16
optimizer), in flat partitions (ZeRO 1 and 2), in a piece of every parameter (ZeRO 3), or in host memory (offload).
Read in the source of DeepSpeed 0.19.8: runtime/engine.py, bf16_optimizer.py, zero/stage_1_and_2.py, zero/stage3.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from megachar.config.deepspeed import EngineConfig
from megachar.parallel.mesh import Mesh
from megachar.parallel.stage import Stage


@dataclass(frozen=True)
class StepFigures:
    """What is known of a step before its update, the same on all ranks."""

    loss_nats: float
    """Mean over all micro-batches of the last layer's first target; not finite if any layer's loss was not."""
    gradient_norm: float
    """Global norm before clipping; not finite if any rank's gradients were not."""
    suspects: tuple[str, ...] = ()
    """`rank 3 of node1` for every rank whose own losses (or, where all are finite, gradients) were not finite. A NaN
    travels up the pipeline: it shows on the first stage after it that has a loss."""


StepJudge = Callable[[StepFigures], bool]
"""Whether to apply a step's update; asked on every rank with the same figures."""


def gradient_squares(deepspeed: Any, stage: Stage, config: EngineConfig, mesh: Mesh) -> Tensor:
    """(2,) in float64, on the device: this rank's share of the squared global norm, and of what must not count in it.

    Shares add up over all ranks. Not counted are the parameters that another tensor rank holds as well; their squares
    are only to be looked at, for a rank's own copy may go wrong alone.
    """
    counted: list[Tensor] = []
    copies: list[Tensor] = []
    for gradient, parameter in _local_gradients(deepspeed, stage, config):
        (counted if _counts(parameter) else copies).append(gradient)
    norms = [get_total_norm(gradients).to(mesh.device, torch.float64) for gradients in (counted, copies)]
    whole_on_every_replica = config.zero_stage == 0 or _is_bf16_optimizer(deepspeed.optimizer)
    replicas = mesh.topology.data_size if whole_on_every_replica else 1
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


def _local_gradients(deepspeed: Any, stage: Stage, config: EngineConfig) -> Iterator[tuple[Tensor, nn.Parameter]]:
    """Reduced gradients that this rank holds, or numbers of the same norm, and the parameter of each."""
    optimizer = deepspeed.optimizer
    if config.zero_stage == 0:
        for parameter in stage.parameters():
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
