"""The deep character transformer on a single device: the reference every parallel path is compared with.

Shapes: b micro-batch, t characters, d width, h heads, k head width, f feed-forward, v vocabulary, n targets.
Knows no ranks: tensor parallelism replaces some of its modules, pipeline stages take slices of its blocks.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.families.model import Model
from megachar.families.transformer.settings import TransformerConfig
from megachar.layers.attention import CausalSelfAttention, KeyValueCache
from megachar.layers.dropout import DropoutKey, seed_generator
from megachar.layers.feed_forward import FeedForward
from megachar.layers.norm import layer_norm
from megachar.layers.positions import LearnedPositions, SinusoidalPositions
from megachar.losses.auxiliary import target_weights
from megachar.losses.cross_entropy import CrossEntropy


class Head(nn.Module):
    """A norm and one classifier per target: what turns a hidden state into predictions.

    The classifiers of intermediate layers (Al-Rfou et al. 2019, section 3.2) read the hidden state through a norm
    without parameters, which keeps their input at unit scale at any depth and the parameter counts the paper's.
    """

    def __init__(self, width: int, vocabulary_size: int, num_targets: int, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.classifiers = nn.ModuleList(nn.Linear(width, vocabulary_size) for _ in range(num_targets))
        self.loss = CrossEntropy()

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits of the first target: (b, t, d) -> (b, t, v)."""
        return self.classifiers[0](self.norm(hidden))

    def nats(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Sums of nats (n,) in fp32 of hidden (b, t, d) against targets (b, t, n)."""
        normed = self.norm(hidden)
        return torch.stack(
            [self.loss(classifier(normed), targets[..., j]) for j, classifier in enumerate(self.classifiers)]
        )


class Block(nn.Module):
    """Positions, then pre-norm attention and feed-forward; with an intermediate head if the block has one."""

    def __init__(self, config: TransformerConfig, index: int, auxiliary: Head | None, kernels: str = "torch") -> None:
        super().__init__()
        self.index = index
        positions = LearnedPositions if config.positions == "learned" else SinusoidalPositions
        self.branch_factor = 1.0 / config.depth_ratio
        """What the block adds to the stream is multiplied by it (Dey et al. 2025)."""
        self.positions = positions(config.context, config.width, self.branch_factor if index else 1.0)
        self.attention_norm = layer_norm(config.width, kernels)
        self.attention = CausalSelfAttention(config.width, config.num_heads, config.dropout, config.attention_scale)
        self.feed_forward_norm = layer_norm(config.width, kernels)
        self.feed_forward = FeedForward(config.width, config.feed_forward_width, config.dropout)
        self.auxiliary = auxiliary

    def forward(self, hidden: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """(b, t, d) -> (b, t, d). With a cache, `hidden` holds the characters after those in the cache."""
        hidden = self.positions(hidden, cache.length if cache is not None else 0)
        attended = self.attention(self.attention_norm(hidden), cache)
        hidden = torch.add(hidden, attended, alpha=self.branch_factor)
        return torch.add(hidden, self.feed_forward(self.feed_forward_norm(hidden)), alpha=self.branch_factor)


class Transformer(Model):
    """Embedding, blocks, head. With `auxiliary=None` it is the model at inference: no auxiliary classifier exists."""

    config: TransformerConfig

    def __init__(self, config: TransformerConfig, auxiliary: AuxiliaryConfig | None, kernels: str = "torch") -> None:
        super().__init__()
        self.config = config
        self.embedding = build_embedding(config)
        self.blocks = nn.ModuleList(build_block(config, auxiliary, i, kernels) for i in range(config.num_layers))
        self.head = build_head(config, auxiliary, kernels)

    def forward(self, inputs: Tensor, caches: Sequence[KeyValueCache] | None = None) -> Tensor:
        """Logits (b, t, v) of the next character after each of inputs (b, t)."""
        return self.head(self.hidden(inputs, caches))

    def hidden(self, inputs: Tensor, caches: Sequence[KeyValueCache] | None = None) -> Tensor:
        """Hidden states (b, t, d) after the last block, before the final norm."""
        hidden = self.embedding(inputs)
        for i, block in enumerate(self.blocks):
            hidden = block(hidden, caches[i] if caches is not None else None)
        return hidden

    def losses(
        self,
        inputs: Tensor,
        targets: Tensor,
        auxiliary: AuxiliaryConfig,
        weights: Sequence[float],
        key: DropoutKey | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The training loss in nats per character, and the sums of nats it is made of.

        Args:
            inputs: (b, t).
            targets: (b, t, n).
            auxiliary: which positions predict, and the targets' weights.
            weights: of each layer's loss, the last layer's last (`losses.auxiliary.layer_weights`).
            key: of the dropout masks; needed when training with dropout.

        Returns:
            The weighted loss, a scalar, and sums of nats (layers, n), 0 where a layer is silent.
        """
        hidden = self.embedding(inputs)
        total = hidden.new_zeros((), dtype=torch.float32)
        sums = []
        blocks: list[Any] = list(self.blocks)
        for block, weight in zip(blocks, weights, strict=True):
            if key is not None:
                seed_generator(hidden.device, key.block(block.index))
            hidden = block(hidden)
            last = block.index == self.config.num_layers - 1
            head = self.head if last else block.auxiliary
            if weight == 0:
                sums.append(total.new_zeros(targets.shape[-1]))
                continue
            predicting, expected = predicting_positions(hidden, targets, auxiliary.multiple_positions)
            nats = head.nats(predicting, expected)
            total = total + weight * layer_loss(nats, expected, auxiliary)
            sums.append(nats.detach())
        return total, torch.stack(sums)


def predicting_positions(hidden: Tensor, targets: Tensor, multiple_positions: bool) -> tuple[Tensor, Tensor]:
    """Hidden states (b, p, d) and targets (b, p, n) of the positions that predict: all of them, or the last."""
    return (hidden, targets) if multiple_positions else (hidden[:, -1:], targets[:, -1:])


def layer_loss(nats: Tensor, targets: Tensor, auxiliary: AuxiliaryConfig) -> Tensor:
    """A layer's loss in nats per character from its sums of nats (n,): later targets count less (section 3.3)."""
    weighted = [weight * nats[j] for j, weight in enumerate(target_weights(auxiliary))]
    return torch.stack(weighted).sum() / (targets.shape[0] * targets.shape[1])


def build(config: TransformerConfig, auxiliary: AuxiliaryConfig | None, kernels: str) -> Transformer:
    """See `families.model`."""
    return Transformer(config, auxiliary, kernels)


def build_embedding(config: TransformerConfig) -> nn.Embedding:
    """The table of characters (v, d)."""
    return nn.Embedding(config.vocabulary_size, config.width)


def build_block(config: TransformerConfig, auxiliary: AuxiliaryConfig | None, index: int, kernels: str) -> Block:
    """Block `index` (from 0), with classifiers of its own if it is an intermediate layer that predicts."""
    head = None
    if auxiliary is not None and auxiliary.intermediate_layers and index < config.num_layers - 1:
        norm = nn.LayerNorm(config.width, elementwise_affine=False)
        head = Head(config.width, config.vocabulary_size, auxiliary.num_targets, norm)
    return Block(config, index, head, kernels)


def build_head(config: TransformerConfig, auxiliary: AuxiliaryConfig | None, kernels: str) -> Head:
    """The final norm and classifiers."""
    num_targets = auxiliary.num_targets if auxiliary is not None else 1
    return Head(config.width, config.vocabulary_size, num_targets, layer_norm(config.width, kernels))
