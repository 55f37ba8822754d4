"""Recurrent models on a single device: the reference. Knows no ranks.

Shapes: b streams, t characters of a segment, e embedding, n hidden units, l layers, v vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.families.model import Model
from megachar.families.recurrent.settings import RecurrentConfig
from megachar.layers.recurrent import HiddenInputs, Matrix, RecurrentLayer, SymbolInputs
from megachar.layers.variational import SegmentKey
from megachar.losses.cross_entropy import CrossEntropy


@dataclass(frozen=True)
class State:
    """What streams carry from one segment to the next."""

    hidden: Tensor
    """(l, b, n), without dropout."""
    cell: Tensor
    """(l, b, n), at least fp32."""

    def detach(self) -> "State":
        """The same state, for gradients a constant."""
        return State(self.hidden.detach(), self.cell.detach())

    def tensors(self) -> dict[str, Tensor]:
        """By name, to be saved: (b, l, n) each, so that streams are rows, whatever layout they are given to."""
        return {"hidden": self.hidden.transpose(0, 1).contiguous(), "cell": self.cell.transpose(0, 1).contiguous()}

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor]) -> "State":
        """From what `tensors` gives, or any choice of its rows."""
        return State(tensors["hidden"].transpose(0, 1).contiguous(), tensors["cell"].transpose(0, 1).contiguous())


class RecurrentModel(Model):
    """Embedding or one-hot vectors, recurrent layers, classifier."""

    config: RecurrentConfig

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.config = config
        size, v = config.hidden_size, config.vocabulary_size
        self.embedding = nn.Embedding(v, config.embedding_size) if config.embedding_size else None
        sizes = [config.embedding_size or v, *[size] * (config.num_layers - 1)]
        self.layers = nn.ModuleList(
            RecurrentLayer(config.cell, config.output_gate, input_size, size, config.weight_norm)
            for input_size in sizes
        )
        self.classifier = nn.Linear(size, v, bias=config.softmax_bias)
        self.loss = CrossEntropy()

    def new_state(self, num_streams: int) -> State:
        """Zeros, on the device and in the type of the weights; the cell is kept in fp32 at least."""
        # Not one by name: ZeRO 3 gathers that, and fails where a validation is the first to ask for it after a resume.
        weight = next(self.parameters())
        shape = (self.config.num_layers, num_streams, self.config.hidden_size)
        cell_type = torch.promote_types(weight.dtype, torch.float32)
        return State(weight.new_zeros(shape), weight.new_zeros(shape, dtype=cell_type))

    def forward(self, inputs: Tensor, state: State, key: SegmentKey | None = None) -> tuple[Tensor, State]:
        """Logits (b, t, v) of the character after each of inputs (b, t), and the state after them."""
        hidden, state = self.hidden(inputs, state, key)
        return self.classifier(hidden.transpose(0, 1)), state  # (t, b, n) -> (b, t, n)

    def nats(
        self, inputs: Tensor, targets: Tensor, state: State, key: SegmentKey | None = None
    ) -> tuple[Tensor, State]:
        """The sum of nats, a scalar in fp32, of targets (b, t) after inputs (b, t), and the state after them.

        Args:
            inputs: (b, t).
            targets: (b, t).
            state: of the b streams before the segment; gradients flow into it unless it is detached.
            key: of the dropout masks; needed when training with dropout.
        """
        hidden, state = self.hidden(inputs, state, key)
        return self.loss(self.classifier(hidden), targets.t()), state

    def hidden(self, inputs: Tensor, state: State, key: SegmentKey | None = None) -> tuple[Tensor, State]:
        """Hidden states (t, b, n) of the last layer as they are read, and the state after them."""
        table = self.table()
        of_rows = table.new_empty(inputs.shape[0], table.shape[1])
        mask = self._mask(key, 0, self.config.embedding_dropout, of_rows)
        below: SymbolInputs | HiddenInputs = SymbolInputs(inputs.t(), table, mask)
        after: list[Sequence[Tensor]] = []
        for i, layer in enumerate(self.layers):
            mask = self._mask(key, i + 1, self.config.hidden_dropout, state.hidden[i])
            reads, *last = layer(below, state.hidden[i], state.cell[i], mask)
            below = HiddenInputs(reads)
            after.append(last)
        hidden, cell = (torch.stack(parts) for parts in zip(*after, strict=True))
        return reads, State(hidden, cell)

    def table(self) -> Tensor:
        """A row for each symbol, (v, e); one-hot vectors of the weights' type, which an engine may have changed."""
        if self.embedding is not None:
            return self.embedding.weight
        weight = self.classifier.weight
        return torch.eye(self.config.vocabulary_size, dtype=weight.dtype, device=weight.device)

    def _mask(self, key: SegmentKey | None, place: int, probability: float, like: Tensor) -> Tensor | None:
        if not self.training or probability == 0:
            return None
        assert key is not None, "training with dropout needs the key of its masks"
        return key.mask(place, probability, like)


def build(config: RecurrentConfig, auxiliary: AuxiliaryConfig | None, kernels: str) -> RecurrentModel:
    """See `families.model`; there are neither auxiliary classifiers nor layer norms."""
    return RecurrentModel(config)


@torch.no_grad()
def fold(model: RecurrentModel) -> RecurrentModel:
    """A model for use after training, with the same output and neither embedding nor gains.

    The embedding is linear, so its product with the input's weights is a table with one row per symbol: what a model
    with one-hot input has. Weight normalization goes into the weights. Layers that read other layers keep their shapes.
    """
    settings = {"embedding_size": 0, "weight_norm": False, "hidden_dropout": 0.0, "embedding_dropout": 0.0}
    folded = RecurrentModel(model.config.model_copy(update=settings))
    folded.to(model.classifier.weight)
    state = {name: value for name, value in model.state_dict().items() if name in folded.state_dict()}
    for name, module in model.named_modules():
        if isinstance(module, Matrix):
            state[f"{name}.weight"] = module()
    if model.embedding is not None:
        state["layers.0.input.weight"] = state["layers.0.input.weight"] @ model.embedding.weight.t()
    folded.load_state_dict(state)
    return folded.train(model.training)
