"""A whole recurrent model as the one stage of its replica, and the state its streams carry from step to step."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from megachar.config.experiment import Experiment
from megachar.config.sections.layout import BatchConfig
from megachar.families.recurrent.initialization import initialize
from megachar.families.recurrent.model import RecurrentModel, State
from megachar.families.recurrent.settings import RecurrentConfig
from megachar.parallel.mesh import Mesh
from megachar.parallel.stage import MicroBatch, Segment, Stage


@dataclass(frozen=True)
class _Carried:
    """What the streams of one micro-batch carry on."""

    epoch: int
    state: State

    def mended(self) -> "_Carried":
        """With zeros for streams whose state is not finite."""
        hidden, cell = self.state.hidden, self.state.cell
        finite = (hidden.isfinite() & cell.isfinite()).all(-1).all(0)[:, None]  # (l, b, n) -> (b, 1)
        return _Carried(self.epoch, State(torch.where(finite, hidden, 0.0), torch.where(finite, cell, 0.0)))


def build_stage(experiment: Experiment, mesh: Mesh) -> Stage:
    """The experiment's model, with its initial weights, on the CPU."""
    assert isinstance(experiment.model, RecurrentConfig), experiment.model.family
    return RecurrentStage(experiment.model, experiment.batch, experiment.seed, mesh)


class RecurrentStage(Stage):
    """Carries the state of this data rank's streams on while it trains; an evaluation begins with none.

    Gradients end where a micro-batch does: truncated back-propagation.
    """

    def __init__(self, model: RecurrentConfig, batch: BatchConfig, seed: int, mesh: Mesh) -> None:
        """`batch`: its rows are streams; `seed`: of the initial weights."""
        super().__init__(model, targets=1)
        self.model = initialize(RecurrentModel(model), seed)
        self._micro_size = batch.micro_size
        numbers = range(mesh.at.data, batch.num_micro_batches, mesh.topology.data_size)
        self._own = [number * batch.micro_size for number in numbers]
        self._carried: dict[int, _Carried] = {}
        self._evaluating: dict[int, _Carried] = {}
        for parameter in self.parameters():
            marked: Any = parameter
            marked.tensor_model_parallel = True  # counts in the gradient norm

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """The single-device model's."""
        return self.model.named_parameters(prefix, recurse, remove_duplicate)

    def begin(self, *arguments: Any) -> None:
        """See `Stage`."""
        super().begin(*arguments)
        self._evaluating = {}

    def end_step(self, keep: bool) -> None:
        """See `Stage`; the state goes on through a refused step, whose text was read, unless it is not finite."""
        super().end_step(keep)
        if not keep:
            self._carried = {first: carried.mended() for first, carried in self._carried.items()}

    def forward(self, hidden: Tensor) -> Tensor:
        """The mean nats of the next micro-batch; the input is ignored."""
        batch = next(self._batches)
        assert batch.segment is not None
        carried = self._carried if self.training else self._evaluating
        before = self._state(carried.get(batch.segment.first_stream), batch.segment, batch)
        nats, after = self.model.nats(batch.inputs, batch.targets[..., 0], before, batch.segment.key)
        carried[batch.segment.first_stream] = _Carried(batch.segment.epoch, after.detach())
        count = batch.inputs.numel()
        self.meter.add(self.meter.shape[0] - 1, nats.detach()[None], count)
        return nats / count

    def export_streams(self) -> dict[int, dict[str, Tensor]]:
        """See `Stage`."""
        return {first: self._rows(carried) for first, carried in self._carried.items()}

    def restore_streams(self, tensors: dict[str, Tensor]) -> None:
        """See `Stage`; where there are none, all begin anew."""
        self._carried = {}
        for first in self._own if tensors else ():
            rows = {name: rows[first : first + self._micro_size] for name, rows in tensors.items()}
            weight, state = self.model.classifier.weight, State.from_tensors(rows)
            state = State(state.hidden.to(weight), state.cell.to(weight.device))
            self._carried[first] = _Carried(int(rows["epoch"][0]), state)

    def _state(self, carried: _Carried | None, segment: Segment, batch: MicroBatch) -> State:
        if carried is not None and carried.epoch == segment.epoch:
            return carried.state
        return self.model.new_state(batch.inputs.shape[0])

    def _rows(self, carried: _Carried) -> dict[str, Tensor]:
        rows = {name: tensor.to("cpu", torch.float32) for name, tensor in carried.state.tensors().items()}
        return {**rows, "epoch": torch.full((self._micro_size,), float(carried.epoch))}
