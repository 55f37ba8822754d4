"""The model again, from the papers and in float64: plain sums and softmax, no code shared with megachar."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def normed(x: Tensor) -> Tensor:
    mean = x.sum(-1, keepdim=True) / x.shape[-1]
    variance = ((x - mean) ** 2).sum(-1, keepdim=True) / x.shape[-1]
    return (x - mean) / (variance + 1e-5) ** 0.5


def attention(x: Tensor, weights: Weights, num_heads: int) -> Tensor:
    _, t, d = x.shape
    q, k, v = (x @ part.T for part in weights["attention.qkv.weight"].split(d))
    heads = []
    for head in range(num_heads):
        part = slice(head * d // num_heads, (head + 1) * d // num_heads)
        scores = torch.einsum("bik,bjk->bij", q[..., part], k[..., part]) / math.sqrt(d // num_heads)
        allowed = torch.arange(t)[:, None] >= torch.arange(t)[None, :]
        share = torch.exp(scores) * allowed
        heads.append(torch.einsum("bij,bjk->bik", share / share.sum(-1, keepdim=True), v[..., part]))
    return torch.cat(heads, -1) @ weights["attention.output.weight"].T


def feed_forward(x: Tensor, weights: Weights) -> Tensor:
    active = x @ weights["feed_forward.up.weight"].T + weights["feed_forward.up.bias"]
    return (active * (active > 0)) @ weights["feed_forward.down.weight"].T + weights["feed_forward.down.bias"]


def positions(weights: Weights, t: int, d: int) -> Tensor:
    if "positions.table" in weights:
        return weights["positions.table"][:t]
    rows = [[math.cos(p / 10_000 ** ((i - 1) / d)) if i % 2 else math.sin(p / 10_000 ** (i / d)) for i in range(d)]
            for p in range(t)]  # fmt: skip
    return torch.tensor(rows, dtype=torch.float64)


def block(x: Tensor, weights: Weights, num_heads: int) -> Tensor:
    x = x + positions(weights, x.shape[1], x.shape[2])
    y = normed(x) * weights["attention_norm.weight"] + weights["attention_norm.bias"]
    x = x + attention(y, weights, num_heads)
    y = normed(x) * weights["feed_forward_norm.weight"] + weights["feed_forward_norm.bias"]
    return x + feed_forward(y, weights)


def under(weights: Weights, prefix: str) -> Weights:
    """The weights of one part, without its prefix."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def nats(x: Tensor, classifiers: Weights, targets: Tensor, last_only: bool) -> list[Tensor]:
    """Sum of -log p for each target of x, already normed."""
    sums = []
    for j in range(targets.shape[-1]):
        logits = x @ classifiers[f"{j}.weight"].T + classifiers[f"{j}.bias"]
        log_p = logits - torch.logsumexp(logits, -1, keepdim=True)
        picked = log_p.gather(-1, targets[..., j : j + 1]).squeeze(-1)
        sums.append(-picked[:, -1].sum() if last_only else -picked.sum())
    return sums


def losses(
    weights: Weights, inputs: Tensor, targets: Tensor, num_heads: int, layer_weights: Sequence[float],
    target_weights: Sequence[float], multiple_positions: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The weighted loss in nats per predicted character, and sums of nats (layers, n), 0 where the weight is."""
    x = weights["embedding.weight"][inputs]
    num_predictions = inputs.numel() if multiple_positions else inputs.shape[0]
    total, table = torch.zeros((), dtype=torch.float64), torch.zeros(len(layer_weights), targets.shape[-1])
    for layer, layer_weight in enumerate(layer_weights):
        x = block(x, under(weights, f"blocks.{layer}."), num_heads)
        if layer_weight == 0:
            continue
        last = layer == len(layer_weights) - 1
        head = under(weights, "head." if last else f"blocks.{layer}.auxiliary.")
        y = normed(x) * head["norm.weight"] + head["norm.bias"] if last else normed(x)
        for j, value in enumerate(nats(y, under(head, "classifiers."), targets, not multiple_positions)):
            total = total + layer_weight * target_weights[j] * value / num_predictions
            table[layer, j] = value.detach()
    return total, table
