"""Tensor parallelism: the family's table says which parameters are cut along which dimension, and all follows from it.

Column-parallel layers give each rank some of the outputs, row-parallel layers take some of the inputs and add up
(Shoeybi et al. 2019, section 3). The vocabulary is cut in the embedding and in every classifier, and the
cross-entropy is computed from the cut logits.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from megachar.config.sections.model import ModelConfig
from megachar.families.parameters import Sharding, rule_of
from megachar.losses.cross_entropy import CrossEntropy
from megachar.parallel.mesh import Mesh


def cut(full: Tensor, sharding: Sharding, rank: int, size: int) -> Tensor:
    """The piece of `full` that tensor rank `rank` of `size` holds."""
    blocks = full.chunk(sharding.parts, sharding.dim)
    return torch.cat([block.chunk(size, sharding.dim)[rank] for block in blocks], sharding.dim).contiguous()


def join(pieces: list[Tensor], sharding: Sharding) -> Tensor:
    """The inverse of `cut`: the whole tensor from all ranks' pieces."""
    blocks = [piece.chunk(sharding.parts, sharding.dim) for piece in pieces]
    columns = [torch.cat([block[part] for block in blocks], sharding.dim) for part in range(sharding.parts)]
    return torch.cat(columns, sharding.dim).contiguous()


def parallelize(layer: nn.Module, prefix: str, model: ModelConfig, mesh: Mesh) -> nn.Module:
    """Replace the modules of a whole layer, named `prefix` in the single-device model, by this rank's cut ones."""
    if mesh.topology.tensor_size == 1:
        return layer
    replacement = _replacement(layer, prefix, model, mesh)
    if replacement is not None:
        return replacement
    for name, child in layer.named_children():
        setattr(layer, name, parallelize(child, f"{prefix}.{name}", model, mesh))
    return layer


def _replacement(module: nn.Module, name: str, model: ModelConfig, mesh: Mesh) -> nn.Module | None:
    if isinstance(module, CrossEntropy):
        return VocabularyParallelCrossEntropy(mesh)
    if not isinstance(module, nn.Embedding | nn.Linear):
        return None
    sharding = rule_of(model, f"{name}.weight").sharding
    if isinstance(module, nn.Embedding) and sharding is not None:
        return VocabularyParallelEmbedding(module, sharding, mesh)
    if isinstance(module, nn.Linear) and sharding is not None:
        kind = ColumnParallelLinear if sharding.dim == 0 else RowParallelLinear
        return kind(module, sharding, mesh)
    return None


class ColumnParallelLinear(nn.Module):
    """A linear layer of which this rank computes some outputs: (..., in) -> (..., out / size)."""

    def __init__(self, linear: nn.Linear, sharding: Sharding, mesh: Mesh) -> None:
        super().__init__()
        self.group = mesh.tensor_group
        self.weight = _cut_parameter(linear.weight, sharding, mesh)
        self.bias = _cut_parameter(linear.bias, sharding, mesh) if linear.bias is not None else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Local outputs; the inputs' gradient is added up over the ranks."""
        return F.linear(_CopyToGroup.apply(inputs, self.group), self.weight, self.bias)


class RowParallelLinear(nn.Module):
    """A linear layer of which this rank has some inputs: (..., in / size) -> (..., out), added up over the ranks."""

    def __init__(self, linear: nn.Linear, sharding: Sharding, mesh: Mesh) -> None:
        super().__init__()
        self.group = mesh.tensor_group
        self.weight = _cut_parameter(linear.weight, sharding, mesh)
        self.bias = linear.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """Whole outputs, the same on every rank; the bias is added once."""
        outputs = _ReduceFromGroup.apply(F.linear(inputs, self.weight), self.group)
        return outputs if self.bias is None else outputs + self.bias


class VocabularyParallelEmbedding(nn.Module):
    """An embedding of which this rank holds some symbols; the others' rows come from the other ranks."""

    def __init__(self, embedding: nn.Embedding, sharding: Sharding, mesh: Mesh) -> None:
        super().__init__()
        self.group = mesh.tensor_group
        self.weight = _cut_parameter(embedding.weight, sharding, mesh)
        self.first = mesh.at.tensor * self.weight.shape[0]

    def forward(self, symbols: Tensor) -> Tensor:
        """(b, t) -> (b, t, d)."""
        local, elsewhere = _local_symbols(symbols, self.first, self.weight.shape[0])
        rows = F.embedding(local, self.weight).masked_fill(elsewhere[..., None], 0.0)
        return _ReduceFromGroup.apply(rows, self.group)


class VocabularyParallelCrossEntropy(nn.Module):
    """Cross-entropy of logits (..., v / size) of which every rank has its own symbols'."""

    def __init__(self, mesh: Mesh) -> None:
        super().__init__()
        self.group, self.rank = mesh.tensor_group, mesh.at.tensor

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Sum of nats in fp32, the same on every rank."""
        logits = logits.float()
        highest = logits.detach().amax(-1)
        dist.all_reduce(highest, dist.ReduceOp.MAX, self.group)
        shifted = logits - highest[..., None]
        local, elsewhere = _local_symbols(targets, self.rank * logits.shape[-1], logits.shape[-1])
        expected = shifted.gather(-1, local[..., None])[..., 0].masked_fill(elsewhere, 0.0)
        both = torch.stack([shifted.exp().sum(-1), expected])
        total, expected = _ReduceFromGroup.apply(both, self.group)
        return (total.log() - expected).sum()


def _local_symbols(symbols: Tensor, first: int, count: int) -> tuple[Tensor, Tensor]:
    """Numbers of the symbols among this rank's, 0 where they are another rank's, and a mask of the latter."""
    elsewhere = (symbols < first) | (symbols >= first + count)
    return (symbols - first).masked_fill(elsewhere, 0), elsewhere


def _cut_parameter(full: Tensor, sharding: Sharding, mesh: Mesh) -> nn.Parameter:
    return nn.Parameter(cut(full.detach(), sharding, mesh.at.tensor, mesh.topology.tensor_size))


class _CopyToGroup(torch.autograd.Function):
    """Identity forward; backward adds the gradients of all ranks."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return inputs.view_as(inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].contiguous()
        dist.all_reduce(gradient, group=ctx.group)
        return gradient, None


class _ReduceFromGroup(torch.autograd.Function):
    """Forward adds the tensors of all ranks; identity backward."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, group: dist.ProcessGroup) -> Tensor:
        outputs = inputs.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(outputs, group=group)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
