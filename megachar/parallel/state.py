"""Weights and optimizer state without a topology: whole fp32 tensors under the single-device model's names.

A rank reads and writes the parameters of its own stage, however DeepSpeed holds them (`parallel.library`).
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from megachar.config.engine import SCALER_KEYS
from megachar.families.parameters import layer_name, rule_of
from megachar.parallel.engine import TrainingEngine
from megachar.parallel.library import held_parameters, inner_optimizer
from megachar.parallel.tensor import cut, join


class EngineState:
    """The whole state of training held by an engine, apart from the number of steps taken."""

    def __init__(self, engine: TrainingEngine, state_keys: Sequence[str]) -> None:
        """`state_keys`: of the optimizer (`OptimizerConfig`)."""
        self.engine, self.mesh, self.state_keys = engine, engine.mesh, state_keys
        self.optimizer = inner_optimizer(engine.optimizer)
        zero_stage, data_size = engine.engine_config.zero_stage, self.mesh.topology.data_size
        self._held = held_parameters(engine.optimizer, zero_stage, self.mesh.at.data, data_size)
        self._make_optimizer_state()
        self._first_scaling = self.loss_scaler

    def export(
        self, host: dict[str, Tensor] | None = None
    ) -> Iterator[tuple[str, dict[str, Tensor], dict[str, Tensor]]]:
        """Name, weights and optimizer state of every local layer, on the CPU; all ranks must go through all of them.

        Weights are keyed by parameter name, optimizer state by `key/parameter name`. Both are empty on all but the
        first data and tensor rank of a stage, which is the one to write them.

        Args:
            host: memory to copy into, by the same keys; filled at the first export, taken again at later ones.
        """
        writes, host = self.mesh.at.data == 0 and self.mesh.at.tensor == 0, {} if host is None else host
        layers: dict[str, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in self.engine.stage.named_parameters():
            layers.setdefault(layer_name(name), []).append((name, parameter))
        for layer, parameters in layers.items():
            weights: dict[str, Tensor] = {}
            states: dict[str, Tensor] = {}
            for name, parameter in parameters:
                for key in (None, *self.state_keys):
                    whole = self._whole(name, self._held.read(parameter, key))
                    if writes:
                        named, tensors = (name, weights) if key is None else (f"{key}/{name}", states)
                        tensors[named] = self._copy_to(host, named, whole)
            if self.mesh.device.type == "cuda":
                torch.cuda.current_stream().synchronize()  # for the copies
            yield layer, weights, states

    def restore(self, read: Callable[[str], tuple[dict[str, Tensor], dict[str, Tensor]]]) -> None:
        """Set every local parameter and its optimizer state.

        Args:
            read: from a layer's name to what `export` gave for it: whole weights, and optimizer state.
        """
        current = ""
        weights: dict[str, Tensor] = {}
        states: dict[str, Tensor] = {}
        for name, parameter in self.engine.stage.named_parameters():
            if layer_name(name) != current:
                current = layer_name(name)
                weights, states = read(current)
            self._held.write(parameter, None, self._piece(name, weights[name]))
            for key in self.state_keys:
                self._held.write(parameter, key, self._piece(name, states[f"{key}/{name}"]))

    @property
    def optimizer_steps(self) -> int:
        """Updates the optimizer has counted (Adam's bias correction)."""
        for state in self.optimizer.state.values():
            if "step" in state:
                return int(state["step"])
        return int(next((group["step"] for group in self.optimizer.param_groups if "step" in group), 0))

    @optimizer_steps.setter
    def optimizer_steps(self, steps: int) -> None:
        for state in self.optimizer.state.values():
            if "step" in state:
                state["step"] = torch.full_like(state["step"], steps) if torch.is_tensor(state["step"]) else steps
        for group in self.optimizer.param_groups:
            if "step" in group:
                group["step"] = steps

    @property
    def loss_scaler(self) -> dict[str, float]:
        """State of the fp16 loss scaling; empty in other precisions."""
        if self.engine.engine_config.precision != "fp16":
            return {}
        scaler = self.engine.optimizer.loss_scaler
        return {key: getattr(scaler, key) for key in SCALER_KEYS if hasattr(scaler, key)}

    @loss_scaler.setter
    def loss_scaler(self, values: dict[str, float]) -> None:
        """From what this property gave, perhaps in another precision.

        A scale that never changes is the DeepSpeed JSON's; one that changes and was not saved begins as a new run's.
        """
        if self.engine.engine_config.precision != "fp16" or not self.engine.optimizer.loss_scaler.dynamic:
            return
        saved = values if values.keys() == self._first_scaling.keys() else self._first_scaling
        for key, value in saved.items():
            setattr(self.engine.optimizer.loss_scaler, key, value)

    def _whole(self, name: str, piece: Tensor) -> Tensor:
        """The tensor cut over the tensor ranks, put together again."""
        sharding, size = rule_of(self.engine.stage.config, name).sharding, self.mesh.topology.tensor_size
        if sharding is not None and size > 1:
            pieces = [torch.empty_like(piece) for _ in range(size)]
            dist.all_gather(pieces, piece.contiguous(), group=self.mesh.tensor_group)
            piece = join(pieces, sharding)
        return piece.detach()

    def _copy_to(self, host: dict[str, Tensor], name: str, whole: Tensor) -> Tensor:
        """`whole` in fp32 in host memory of its own; complete once the device's stream is through."""
        if name not in host:
            host[name] = torch.empty(whole.shape, dtype=torch.float32, pin_memory=self.mesh.device.type == "cuda")
        return host[name].copy_(whole, non_blocking=True)

    def _piece(self, name: str, whole: Tensor) -> Tensor:
        sharding, size = rule_of(self.engine.stage.config, name).sharding, self.mesh.topology.tensor_size
        if sharding is not None and size > 1:
            whole = cut(whole, sharding, self.mesh.at.tensor, size)
        return whole.to(self.mesh.device)

    def _make_optimizer_state(self) -> None:
        """Make the zero state that torch would make at the first step, so that there is always one to read and set."""
        group = self.optimizer.param_groups[0]
        for master in self._held.masters:
            state = self.optimizer.state[master]
            for key in self.state_keys:
                state.setdefault(key, torch.zeros_like(master, dtype=torch.float32))
            if "betas" in group and "step" not in group:  # apex counts in the group
                device = master.device if group.get("fused") else "cpu"
                state.setdefault("step", torch.zeros((), dtype=torch.float32, device=device))
        self._held.link_state()
