"""One pipeline stage of a transformer: a slice of its layers, whose auxiliary losses stay where they arise.

No loss ever crosses a stage. An intermediate layer's loss joins the gradient of the hidden state in the backward
pass, with the same factor as the main loss carries there: 1 / accumulation steps, times the fp16 loss scale.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from megachar.config.experiment import Experiment
from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.families.parameters import rule_of
from megachar.families.transformer.initialization import initialize_layer
from megachar.families.transformer.model import (
    Block,
    build_block,
    build_embedding,
    build_head,
    layer_loss,
    predicting_positions,
)
from megachar.families.transformer.settings import TransformerConfig
from megachar.layers.dropout import seed_generator
from megachar.losses.auxiliary import target_weights
from megachar.parallel.mesh import Mesh
from megachar.parallel.stage import MicroBatch, Stage
from megachar.parallel.tensor import parallelize
from megachar.parallel.topology import stage_blocks


def build_stage(experiment: Experiment, mesh: Mesh) -> Stage:
    """This rank's layers of the experiment's model, with their initial weights, on the CPU."""
    model = experiment.model
    assert isinstance(model, TransformerConfig), model.family
    interval = experiment.parallel.activation_checkpoint_interval
    return TransformerStage(model, experiment.auxiliary, experiment.seed, experiment.kernels, interval, mesh)


class TransformerStage(Stage):
    """A slice of the transformer's layers. At pipe size 1 it is the whole model.

    Every stage reads the micro-batches itself, so only the hidden state travels: one float tensor. Which micro-batch a
    forward pass belongs to follows from the order, which every schedule of DeepSpeed keeps.
    """

    def __init__(
        self,
        model: TransformerConfig,
        auxiliary: AuxiliaryConfig,
        seed: int,
        kernels: str,
        checkpoint_interval: int,
        mesh: Mesh,
    ) -> None:
        """`seed`: of the initial weights; `checkpoint_interval`: blocks whose activations are recomputed together."""
        super().__init__(model, len(target_weights(auxiliary)))
        self.auxiliary_config = auxiliary
        self.num_layers = model.num_layers
        self.checkpoint_interval = checkpoint_interval
        self.tensor_rank = mesh.at.tensor
        indices = stage_blocks(model.num_layers, mesh.topology.pipe_size)[mesh.at.pipe]

        def build(name: str, layer: nn.Module, number: int) -> Any:
            initialize_layer(layer, model, seed, number)
            return parallelize(layer, name, model, mesh)

        self.is_first = mesh.at.pipe == 0
        self.is_last = mesh.at.pipe == mesh.topology.pipe_size - 1
        self.embedding = build("embedding", build_embedding(model), 0) if self.is_first else None
        self.blocks = nn.ModuleDict(
            {str(i): build(f"blocks.{i}", build_block(model, auxiliary, i, kernels), i + 1) for i in indices}
        )
        self.head = build("head", build_head(model, auxiliary, kernels), model.num_layers + 1) if self.is_last else None
        for name, parameter in self.named_parameters():
            # DeepSpeed's gradient norm counts what is marked so, and nothing else beyond the first rank of the model:
            # replicated parameters must count on one tensor rank, and on every stage.
            marked: Any = parameter
            marked.tensor_model_parallel = self.tensor_rank == 0 or rule_of(model, name).sharding is not None

    def silent_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the local classifiers that the current weights leave out."""
        blocks: list[Any] = list(self.blocks.values())
        for block in blocks:
            if block.auxiliary is not None and self._weights[block.index] == 0:
                yield from block.auxiliary.parameters()

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden state (b, t, d) in and out; the first stage ignores its input, the last returns the main loss."""
        batch = next(self._batches)
        if self.embedding is not None:
            hidden = self.embedding(batch.inputs)
        blocks: list[Any] = list(self.blocks.values())
        interval = self.checkpoint_interval if torch.is_grad_enabled() else 0
        for start in range(0, len(blocks), interval or len(blocks)):
            group = blocks[start : start + (interval or len(blocks))]
            arguments = (group, hidden, batch, self._weights, self._factor)
            if interval:
                # Masks are seeded by key inside the blocks, so no generator state has to be restored.
                hidden, nats = checkpoint(self._run, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                hidden, nats = self._run(*arguments)
            for block, sums in zip(group, nats, strict=True):
                self._record(block.index, sums, batch)
        if self.head is None:
            return hidden
        predicting, expected = predicting_positions(hidden, batch.targets, self.auxiliary_config.multiple_positions)
        nats = self.head.nats(predicting, expected)
        self._record(self.num_layers - 1, nats, batch)
        return layer_loss(nats, expected, self.auxiliary_config)

    def _run(
        self, blocks: list[Block], hidden: Tensor, batch: MicroBatch, weights: Sequence[float], factor: float
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Blocks in order, each with its loss attached; and each block's sums of nats (n,), None if silent."""
        sums: list[Tensor | None] = []
        for block in blocks:
            if batch.key is not None:
                seed_generator(hidden.device, batch.key.block(block.index, self.tensor_rank))
            hidden = block(hidden)
            weight = weights[block.index]
            if block.auxiliary is None or weight == 0:
                sums.append(None)
                continue
            predicting, expected = predicting_positions(hidden, batch.targets, self.auxiliary_config.multiple_positions)
            nats = block.auxiliary.nats(predicting, expected)
            loss = weight * layer_loss(nats, expected, self.auxiliary_config)
            hidden = _AttachLoss.apply(hidden, loss, factor)
            sums.append(nats.detach())
        return hidden, sums

    def _record(self, layer: int, nats: Tensor | None, batch: MicroBatch) -> None:
        if nats is not None:
            positions = batch.targets.shape[1] if self.auxiliary_config.multiple_positions else 1
            self.meter.add(layer, nats.detach(), batch.targets.shape[0] * positions)


class _AttachLoss(torch.autograd.Function):
    """Passes the hidden state through; backward lets `factor` times the loss's gradient join in."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, loss: Tensor, factor: float) -> Tensor:
        ctx.gradient = torch.full_like(loss, factor)
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        return gradients[0], ctx.gradient, None
