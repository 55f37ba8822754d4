"""The recurrent models again, from the papers' equations: one stream and one character at a time, no code shared."""

from collections.abc import Mapping

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def matrix(weights: Weights, name: str) -> Tensor:
    """Row k of a normalized matrix is gain[k] v[k] / |v[k]|."""
    v = weights[f"{name}.weight"]
    if f"{name}.gain" not in weights:
        return v
    rows = [gain * row / (row * row).sum() ** 0.5 for gain, row in zip(weights[f"{name}.gain"], v, strict=True)]
    return torch.stack(rows)


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def gates(weights: Weights, cell: str, x: Tensor, h: Tensor) -> Tensor:
    """Input, forget, output, candidate before their non-linearities, (4n,), of x (e,) and h (n,)."""
    w_x, w_h, n = matrix(weights, "input"), matrix(weights, "recurrent"), h.shape[0]
    if cell == "mlstm":
        w_ix, w_fx, w_ox, w_ux, w_mx = w_x.split(n)
        w_im, w_fm, w_om, w_um = w_h.split(n)
        m = (w_mx @ x) * (matrix(weights, "factor") @ h)
        parts = [w_ix @ x + w_im @ m, w_fx @ x + w_fm @ m, w_ox @ x + w_om @ m, w_ux @ x + w_um @ m]
        return torch.cat(parts) + weights["bias"]
    a, b = w_x @ x, w_h @ h
    if cell == "milstm":
        mixed = weights["alpha"] * a * b + weights["beta_input"] * a + weights["beta_hidden"] * b
        return mixed + weights["bias"]
    return a + b + weights["bias"]


def layer(
    weights: Weights, cell: str, inside: bool, inputs: Tensor, hidden: Tensor, memory: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of one stream: what is read of the hidden states (t, n), and h and c (n,) at the end."""
    reads = []
    for x in inputs:
        i, f, o, u = gates(weights, cell, x, hidden * mask).chunk(4)
        memory = sigmoid(f) * memory + sigmoid(i) * torch.tanh(u)
        hidden = torch.tanh(memory * sigmoid(o)) if inside else torch.tanh(memory) * sigmoid(o)
        reads.append(hidden * mask)
    return torch.stack(reads), hidden, memory


def under(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def hidden_states(
    weights: Weights, cell: str, inside: bool, symbols: Tensor, num_symbols: int, start: Tensor, memory: Tensor,
    masks: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """What is read of the last layer (b, t, n), and the state (l, b, n) twice.

    Args:
        symbols: (b, t).
        start: hidden state (l, b, n).
        memory: cell (l, b, n).
        masks: of the embedding (b, e), and of each layer's hidden state (b, n).
    """
    table = weights.get("embedding.weight", torch.eye(num_symbols, dtype=start.dtype))
    streams = []
    for b, text in enumerate(symbols):
        x = torch.stack([table[int(symbol)] * masks[0][b] for symbol in text])
        ends = []
        for number in range(start.shape[0]):
            own = under(weights, f"layers.{number}.")
            x, h, c = layer(own, cell, inside, x, start[number, b], memory[number, b], masks[number + 1][b])
            ends.append((h, c))
        streams.append((x, torch.stack([h for h, _ in ends]), torch.stack([c for _, c in ends])))
    reads, hiddens, cells = zip(*streams, strict=True)
    return torch.stack(reads), torch.stack(hiddens, 1), torch.stack(cells, 1)


def nats(weights: Weights, reads: Tensor, targets: Tensor) -> Tensor:
    """Sum of -log p of targets (b, t) from reads (b, t, n)."""
    logits = reads @ weights["classifier.weight"].T
    if "classifier.bias" in weights:
        logits = logits + weights["classifier.bias"]
    log_p = logits - torch.log(torch.exp(logits).sum(-1, keepdim=True))
    return -log_p.gather(-1, targets[..., None]).sum()
