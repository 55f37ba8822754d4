"""What DeepSpeed's engines hold, move and send for the parameters of a rank.

Read in the source of DeepSpeed 0.19.8 (runtime/engine.py, bf16_optimizer.py, zero/stage_1_and_2.py, zero/stage3.py),
and compared with what torch allocates (`tests/experiments/plan_reality.py`). Masters, accumulated gradients and the
optimizer's state are in fp32.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from megachar.config.deepspeed import EngineConfig
from megachar.config.experiment import Experiment
from megachar.planning.devices import Device, Link
from megachar.planning.layouts import Layout
from megachar.planning.stages import Array, Stages

SINGLE: Final = 4
"""Bytes of a number in fp32."""
_MOST_AT_ONCE: Final = 500_000_000
"""Numbers that DeepSpeed's engine reduces at once where ZeRO does not (MEMORY_OPT_ALLREDUCE_SIZE)."""


def bytes_per_number(engine: EngineConfig) -> int:
    """Of weights and activations in products, w."""
    return SINGLE if engine.precision == "fp32" else 2


@dataclass(frozen=True)
class Held:
    """Bytes in each stage, (stages,) each."""

    weights: Array
    gradients: Array
    optimizer: Array
    """Masters and the optimizer's state."""
    communication: Array
    """What gradients and weights are sent in."""

    @cached_property
    def total(self) -> Array:
        """(stages,) of all of it."""
        return self.weights + self.gradients + self.optimizer + self.communication


class Zero:
    """An engine over r replicas. In each stage a rank has n parameters, which multiply as numbers of w bytes."""

    def __init__(self, experiment: Experiment, layout: Layout, stages: Stages) -> None:
        self.engine, self.replicas = layout.engine, layout.parallel.data
        self.stage = self.engine.zero_stage
        self.pipelined = layout.parallel.pipe > 1
        self.micro_batches = experiment.batch.global_size // (layout.micro_size * self.replicas)
        self.bytes = bytes_per_number(self.engine)
        self._stages, self._n = stages, stages.parameters
        self._state_keys = len(experiment.optimizer.state_keys)
        zero = self.engine.settings.zero_optimization
        self._bucket = zero.reduce_bucket_size if self.stage else 0
        self._two_buckets = zero.overlap_comm is True and not self.pipelined
        self._persistent_tensor = zero.stage3_param_persistence_threshold
        self._hosts_weights = zero.offload_param is not None and zero.offload_param.device != "none"

    @cached_property
    def flying(self) -> Array:
        """(stages,) micro-batches that a stage has passed forward and not yet backward, at the most."""
        above = self._stages.num_stages - np.arange(self._stages.num_stages)
        return np.minimum(self.micro_batches, above).astype(np.float64)

    @cached_property
    def slots(self) -> Array:
        """(stages,) hidden states and gradients that a stage has room for on their way to and from its neighbors.

        Inputs of two micro-batches at least, outputs until their backward pass, and a gradient each way.
        """
        stages = np.arange(self._stages.num_stages)
        receives, sends = stages > 0, stages < len(stages) - 1
        return receives * (np.maximum(2.0, self.flying) + 1) + sends * (self.flying + 1)

    @property
    def accumulates_apart(self) -> bool:
        """Whether it is DeepSpeed's bf16 optimizer, which adds gradients up in whole fp32 copies."""
        return self.engine.precision == "bf16" and self.stage == 1

    @cached_property
    def in_backward(self) -> Held:
        """When activations take the most: as a backward pass begins, with the gradients of the micro-batches before.

        There are none before as long as all micro-batches of the step are under way.
        """
        return self._passing((self.micro_batches > self.flying).astype(np.float64))

    @cached_property
    def at_the_end_of_backward(self) -> Held:
        """When a step's last backward pass comes to the lowest block, with the gradients of all others."""
        blocks = self._stages.num_blocks
        return self._passing((blocks - 1) / blocks)

    def _passing(self, several: Array) -> Held:
        """In a backward pass; `several`: (stages,) the share of the gradients that is there."""
        n, w, r = self._n, self.bytes, self.replicas
        if self.stage == 0:
            gradients = SINGLE * n * several
        elif self.accumulates_apart:
            gradients = (SINGLE + w * several) * n
        elif self.stage == 1:
            gradients = (SINGLE + (w if w < SINGLE else 0)) * n * several
        elif self.stage == 2:
            gradients = SINGLE * n / r * several
        else:
            gradients = SINGLE * n / r
        if self.engine.offload:
            gradients = w * n / r
        return Held(self._weights, gradients, self._optimizer, np.full_like(n, self._buckets))

    @cached_property
    def in_update(self) -> Held:
        """When gradients are reduced and applied; activations are gone by then."""
        n, w, r = self._n, self.bytes, self.replicas
        several = self.micro_batches > 1
        sent = np.zeros_like(n)
        if self.stage == 0:
            gradients = SINGLE * n
            sent = SINGLE * np.minimum(n, _MOST_AT_ONCE) * (r > 1)
        elif self.accumulates_apart:
            gradients = SINGLE * n
            sent = SINGLE * np.minimum(n, _MOST_AT_ONCE)
        elif self.stage == 1 and self.pipelined:  # the engine makes a bucket of its own beside that of the last pass
            gradients = SINGLE * n
            sent = np.full_like(n, 2 * self._buckets)
        elif self.stage == 1:
            gradients = SINGLE * n + SINGLE * n / r
        elif self.stage == 2:
            gradients = (2 * SINGLE if several else SINGLE + w) * n / r
            sent = np.full_like(n, self._buckets * (2 if several and w == SINGLE else 1))
        else:
            gradients = 2 * SINGLE * n / r
            sent = np.full_like(n, self._buckets)
        if self.engine.offload:
            gradients = w * n / r
        return Held(self._weights, gradients, self._optimizer, sent)

    @property
    def _buckets(self) -> float:
        """Bytes of the flat buffers that gradients are reduced in; they are allocated whole, however few there are."""
        if self.stage == 0 or self.accumulates_apart:
            return 0.0
        width = SINGLE if self.stage == 1 else self.bytes
        return float(self._bucket * width * (2 if self._two_buckets else 1))

    @cached_property
    def _weights(self) -> Array:
        n, w, stages = self._n, self.bytes, self._stages
        if self.stage < 3:
            return w * n
        # Small tensors stay gathered; of the others, the layer at hand and the one after it.
        small = n / stages.tensors < self._persistent_tensor
        gathered = np.where(small, w * n, np.minimum(w * n, 2.0 * w * stages.largest))
        return gathered + (0.0 if self._hosts_weights else w * n / self.replicas)

    @cached_property
    def _optimizer(self) -> Array:
        n = self._n
        if self.engine.offload:
            return np.zeros_like(n)
        if self.stage == 0:
            return SINGLE * self._state_keys * n
        return SINGLE * (1 + self._state_keys) * n / self.replicas

    @cached_property
    def moved_per_micro_batch(self) -> Array:
        """(stages,) bytes that adding up the gradients of a micro-batch reads and writes."""
        n = self._n
        if self.accumulates_apart:
            return (3 * self.bytes + 4 * SINGLE) * n  # zeroed, converted, added
        if self.stage == 0 or (self.stage == 1 and self.pipelined):
            return 3 * SINGLE * n * float(self.micro_batches > 1)
        return (2 * self.bytes + 3 * SINGLE / (1 if self.stage == 1 else self.replicas)) * n

    @property
    def kernels_per_micro_batch(self) -> Array:
        """(stages,) operations that this takes."""
        return (1.0 if self.stage == 0 else 2.0) * self._stages.tensors

    def seconds_per_micro_batch(self, link: Link) -> Array:
        """(stages,) for gradients and weights that are sent with every micro-batch."""
        n, share = self._n, (self.replicas - 1) / self.replicas
        if self.stage < 2 or self.replicas == 1:
            return np.zeros_like(n)
        # Stage 2 reduces whole buckets; stage 3 gathers forward and backward and scatters gradients, tensor by tensor.
        sent = (2 if self.stage == 2 else 3) * self.bytes * n * share
        messages = np.ceil(n / self._bucket) if self.stage == 2 else 1.5 * self._stages.tensors
        return messages * self._latency(link) + sent / link.bytes_per_second

    def seconds_per_step(self, link: Link) -> float:
        """For gradients and weights that are sent once a step, of the largest stage."""
        n = float(self._n.max())
        if self.replicas == 1 or self.stage == 3:
            return 0.0
        share = (self.replicas - 1) / self.replicas
        reduced = 2 * SINGLE * n * share if self.stage < 2 else 0.0
        gathered = self.bytes * n * share if self.stage else 0.0
        buckets = -(-n // self._bucket) if self._bucket and not self.accumulates_apart else 1
        return (1 + buckets) * self._latency(link) + (reduced + gathered) / link.bytes_per_second

    def update_seconds(self, device: Device) -> float:
        """Norms, the update itself, and new weights, of the largest stage."""
        n = float(self._n.max())
        own = n if self.stage == 0 else n / self.replicas
        norms = 2 * SINGLE * (n if self.stage == 0 or self.accumulates_apart else own)
        update = own * SINGLE * (3 + 2 * self._state_keys)
        weights = own * (SINGLE + self.bytes) if self.stage else 0.0
        if self.engine.offload:
            moved = own * (SINGLE + self.bytes) / device.host.bytes_per_second
            return moved + (norms + update + weights) / device.host_moved_bytes_per_second
        zeroed = SINGLE * n if self.accumulates_apart else 0.0
        return (norms + update + weights + zeroed) / device.moved_bytes_per_second

    def _latency(self, link: Link) -> float:
        return 2 * (self.replicas - 1).bit_length() * link.seconds
