"""The two DeepSpeed engines behind one small interface: train a step, evaluate, gather losses.

PipelineEngine drives more than one stage (ZeRO 0-1); DeepSpeedEngine drives a whole model (ZeRO 0-3, offload).
"""

import contextlib
import itertools
import math
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from megachar.config.deepspeed import EngineConfig
from megachar.parallel.library import (
    can_lower_loss_scale,
    clear_gradients,
    discard_gradients,
    gradient_squares,
    judge_updates,
    sum_norms_once,
)
from megachar.parallel.mesh import Mesh
from megachar.parallel.messages import TEXT_OR_NONE, gather
from megachar.parallel.stage import MicroBatch, Stage


@dataclass(frozen=True)
class LossSums:
    """Sums over all replicas since the last gathering."""

    nats: np.ndarray[Any, np.dtype[np.float64]]
    """(layers, n) sums of negative log-likelihoods; 0 where a layer was silent."""
    counts: np.ndarray[Any, np.dtype[np.float64]]
    """(layers,) predictions behind each sum."""

    def bits_per_character(self, layer: int = -1, target: int = 0) -> float:
        """Mean bits of a layer's predictions; NaN if it made none. The headline is the last layer's first target."""
        count = self.counts[layer]
        return float(self.nats[layer, target] / count / np.log(2)) if count else float("nan")


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


class TrainingEngine(ABC):
    """A stage under a DeepSpeed engine."""

    def __init__(
        self,
        stage: Stage,
        optimizer: torch.optim.Optimizer,
        engine_config: EngineConfig,
        rendered: dict[str, Any],
        mesh: Mesh,
    ) -> None:
        """`optimizer`: of the stage's parameters; `rendered`: what DeepSpeed is configured with, all of it."""
        self.stage, self.engine_config, self.mesh = stage, engine_config, mesh
        self.accumulation_steps: int = rendered["gradient_accumulation_steps"]
        self.deepspeed = self._initialize(optimizer, rendered)
        self._guarded_norm: float | None = None
        if mesh.topology.pipe_size > 1 and any("rate_factor" in group for group in optimizer.param_groups):
            sum_norms_once(self.deepspeed, lambda: self._gradient_squares()[0])

    def guard_steps(self, judge: StepJudge) -> None:
        """Ask `judge` before every update, once the gradients are reduced; what it refuses changes nothing that learns.

        Parameters, optimizer state and the losses gathered stay as they were before the step; the state of a recurrent
        model's streams follows the text all the same.
        """

        def takes_step() -> bool:
            figures, overflow = self._step_figures()
            self._guarded_norm = figures.gradient_norm
            # An overflow that a lower loss scale answers is DeepSpeed's to skip.
            taken = overflow or judge(figures)
            self.stage.end_step(keep=taken)
            if not taken:
                discard_gradients(self.deepspeed, self.engine_config)
            return taken

        judge_updates(self.deepspeed, takes_step)

    def train_step(self, batches: Iterable[MicroBatch], weights: Sequence[float], learning_rate: float) -> None:
        """One optimizer step over this data rank's micro-batches.

        Args:
            batches: exactly global_size / (micro_size x data ranks) micro-batches.
            weights: of every layer's loss.
            learning_rate: of this step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("rate_factor", 1.0)
        self.stage.begin(batches, weights, self.loss_scale / self.accumulation_steps)
        self._train()

    def evaluate(self, batches: Iterable[MicroBatch], count: int, weights: Sequence[float]) -> LossSums:
        """Losses of `count` micro-batches of this data rank, without dropout and gradients, gathered over all ranks."""
        self.gather_losses()
        self.stage.begin(batches, weights, 0.0)
        self._evaluate(count)
        return self.gather_losses()

    def gather_losses(self) -> LossSums:
        """Add up the losses of all ranks since the last call. Every rank must call it; every rank gets the result."""
        sums = self.stage.meter.take(self.mesh.device)
        if self.mesh.at.tensor:
            sums.zero_()
        dist.all_reduce(sums)
        values = sums.cpu().numpy()
        return LossSums(values[:, :-1], values[:, -1])

    @property
    def optimizer(self) -> Any:
        """DeepSpeed's optimizer, or ours where DeepSpeed wraps none (fp32 without ZeRO)."""
        return self.deepspeed.optimizer

    @property
    def loss_scale(self) -> float:
        """Factor of the fp16 loss scaling at this step; 1 in other precisions."""
        return float(self.optimizer.loss_scale) if self.engine_config.precision == "fp16" else 1.0

    @property
    def gradient_norm(self) -> float | None:
        """Global norm of the last step's gradients before clipping; None where neither guard nor DeepSpeed took it."""
        norm = self._guarded_norm if self._guarded_norm is not None else self.deepspeed.get_global_grad_norm()
        return float(norm) if norm is not None else None

    @property
    def skipped_steps(self) -> int:
        """Steps skipped because fp16 gradients overflowed."""
        return int(self.deepspeed.skipped_steps)

    def _step_figures(self) -> tuple[StepFigures, bool]:
        """What the step at hand is like, and whether its fp16 gradients overflowed and may do so. One sum, one wait.

        The sum is over the default group: over gloo, a ring of hundreds of ranks would take longer than the norm.
        """
        losses = self.stage.meter.step_sums(self.mesh.device)
        if self.mesh.at.tensor:
            losses[1:] = 0
        own = torch.cat([losses, self._gradient_squares()])
        sums = own.clone()
        dist.all_reduce(sums)
        all_nats, nats, count, squares, copies = sums.tolist()
        finite_loss, finite_gradients = math.isfinite(all_nats), math.isfinite(squares + copies)
        if not finite_gradients and finite_loss and self._may_overflow:
            return StepFigures(nats / count, math.inf), True
        suspects = () if finite_loss and finite_gradients else self._suspects(own[:1] if not finite_loss else own[3:])
        norm = math.sqrt(squares) / self.loss_scale if finite_gradients else math.inf
        return StepFigures(nats / count if finite_loss else math.nan, norm, suspects), False

    def _gradient_squares(self) -> torch.Tensor:
        """(2,); see `library.gradient_squares`."""
        data_size, device = self.mesh.topology.data_size, self.mesh.device
        return gradient_squares(self.deepspeed, self.stage.parameters(), self.engine_config, data_size, device)

    @property
    def _may_overflow(self) -> bool:
        return self.engine_config.precision == "fp16" and can_lower_loss_scale(self.optimizer)

    def _suspects(self, own: torch.Tensor) -> tuple[str, ...]:
        """The ranks on which `own` is not finite; all ranks must call it."""
        where = f"rank {self.mesh.rank} of {socket.gethostname()}"
        mine = where if not bool(own.isfinite().all()) else None
        return tuple(rank for rank in gather(TEXT_OR_NONE, mine, self.mesh.control_group) if rank is not None)

    @abstractmethod
    def _initialize(self, optimizer: torch.optim.Optimizer, rendered: dict[str, Any]) -> Any:
        """DeepSpeed's engine over the stage."""

    @abstractmethod
    def _train(self) -> None: ...

    @abstractmethod
    def _evaluate(self, count: int) -> None: ...


class WholeModelEngine(TrainingEngine):
    """One stage, under DeepSpeedEngine: ZeRO 0-3 and offload."""

    def _initialize(self, optimizer: torch.optim.Optimizer, rendered: dict[str, Any]) -> Any:
        return _deepspeed_engine(self.stage, optimizer, rendered, self.mesh)

    def _train(self) -> None:
        self.deepspeed.train()
        for number in range(self.accumulation_steps):
            self.deepspeed.backward(self.deepspeed(_unused(self.mesh.device)))
            if number == self.accumulation_steps - 1:
                clear_gradients(self.stage.silent_parameters(), self.engine_config, self.mesh.device)
            self.deepspeed.step()

    @torch.no_grad()
    def _evaluate(self, count: int) -> None:
        self.deepspeed.eval()
        for _ in range(count):
            self.deepspeed(_unused(self.mesh.device))


class PipelineTrainingEngine(TrainingEngine):
    """Several stages, under PipelineEngine: ZeRO 0-1."""

    def _initialize(self, optimizer: torch.optim.Optimizer, rendered: dict[str, Any]) -> Any:
        from deepspeed.pipe import PipelineModule
        from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology

        topology = self.mesh.topology
        # One entry per stage: which blocks a stage holds is decided by `topology.stage_blocks`.
        layers = [self.stage if i == self.mesh.at.pipe else nn.Identity() for i in range(topology.pipe_size)]
        grid = PipeModelDataParallelTopology(topology.pipe_size, topology.tensor_size, topology.data_size)
        with contextlib.redirect_stdout(None):  # it prints its layers
            module = PipelineModule(layers, topology=grid, partition_method="uniform")
        return _deepspeed_engine(module, optimizer, rendered, None)

    def _train(self) -> None:
        self.deepspeed.train_batch(_no_data(self.mesh.device))

    def _evaluate(self, count: int) -> None:
        self.deepspeed.eval_batch(_no_data(self.mesh.device), num_micro_batches=count)


def _deepspeed_engine(
    module: nn.Module, optimizer: torch.optim.Optimizer, rendered: dict[str, Any], mesh: Mesh | None
) -> Any:
    import deepspeed

    with contextlib.redirect_stdout(None):  # it prints memory figures
        return deepspeed.initialize(
            model=module, optimizer=optimizer, mpu=mesh, config=rendered, dist_init_required=False
        )[0]


def _unused(device: torch.device) -> torch.Tensor:
    """Stands where DeepSpeed wants an input; stages read their own micro-batches."""
    return torch.zeros((), device=device)


def _no_data(device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Stands where PipelineEngine wants (input, label) pairs; stages read their own micro-batches."""
    return itertools.repeat((_unused(device), _unused(device)))
