"""Recurrent layers: multiplicative LSTM, LSTM, and LSTM with multiplicative integration.

Shapes: b streams, t characters, e input size, n hidden units, v symbols. Inside, time comes first: (t, b, n). Gates lie
side by side in the order input, forget, output, candidate.
"""

import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megachar.layers.recurrence import CellName, OutputGate, recur


class Matrix(nn.Module):
    """A weight (rows, columns), with weight normalization (Salimans and Kingma 2016) or without.

    Normalized, row k is gain[k] * weight[k] / |weight[k]|.
    """

    def __init__(self, rows: int, columns: int, weight_norm: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns))
        self.gain = nn.Parameter(torch.empty(rows)) if weight_norm else None

    def forward(self) -> Tensor:
        """The matrix as it multiplies, (rows, columns)."""
        if self.gain is None:
            return self.weight
        return self.weight * (self.gain / self.weight.norm(dim=1))[:, None]

    @torch.no_grad()
    def reset_gain(self) -> None:
        """Set the gains to the rows' norms: the matrix multiplies as if it were not normalized."""
        if self.gain is not None:
            self.gain.copy_(self.weight.norm(dim=1))


@dataclass(frozen=True)
class SymbolInputs:
    """Symbols that enter through a table with one row each."""

    symbols: Tensor
    """(t, b)."""
    table: Tensor
    """(v, e): the linear embedding, or the identity for one-hot vectors."""
    mask: Tensor | None = None
    """Of the rows' dimensions, (b, e): variational dropout."""

    def dense(self) -> Tensor:
        """The rows, (t, b, e)."""
        rows = F.embedding(self.symbols, self.table)
        return rows if self.mask is None else rows * self.mask

    def products(self, layer: "RecurrentLayer") -> Tensor:
        """What the layer makes of the rows, (t b, ...).

        The embedding is linear: with fewer symbols than characters, the products of every symbol can be looked up.
        """
        if self.mask is None and self.symbols.numel() > self.table.shape[0]:
            return F.embedding(self.symbols.flatten(), layer.products(self.table))
        return layer.products(self.dense().flatten(0, 1))


@dataclass(frozen=True)
class HiddenInputs:
    """Hidden states of the layer below."""

    hidden: Tensor
    """(t, b, e)."""

    def dense(self) -> Tensor:
        """Themselves."""
        return self.hidden

    def products(self, layer: "RecurrentLayer") -> Tensor:
        """What the layer makes of them, (t b, ...)."""
        return layer.products(self.hidden.flatten(0, 1))


class RecurrentLayer(nn.Module):
    """One layer over a whole segment.

    mlstm (Krause et al. 2016): m = (W_mx x) * (W_mh h); gates = W_x x + W_m m + bias.
    lstm: gates = W_x x + W_h h + bias.
    milstm (Wu et al. 2016): gates = alpha * p * q + beta_input * p + beta_hidden * q + bias, p = W_x x and q = W_h h.
    """

    def __init__(
        self, cell: CellName, output_gate: OutputGate, input_size: int, hidden_size: int, weight_norm: bool
    ) -> None:
        super().__init__()
        self.cell, self.output_gate, self.hidden_size = cell, output_gate, hidden_size
        gates = 4 * hidden_size
        # W_x, and below it the rows of W_mx
        self.input = Matrix(gates + (hidden_size if cell == "mlstm" else 0), input_size, weight_norm)
        self.recurrent = Matrix(gates, hidden_size, weight_norm)  # W_m or W_h
        self.factor = Matrix(hidden_size, hidden_size, weight_norm) if cell == "mlstm" else None  # W_mh
        self.bias = nn.Parameter(torch.empty(gates))
        if cell == "milstm":
            self.alpha = nn.Parameter(torch.empty(gates))
            self.beta_input = nn.Parameter(torch.empty(gates))
            self.beta_hidden = nn.Parameter(torch.empty(gates))

    def forward(
        self, inputs: SymbolInputs | HiddenInputs, hidden: Tensor, cell: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states as they are read (t, b, n), and hidden and cell (b, n) after the segment; see `recur`."""
        if self._has_kernel(hidden.device, mask):
            return self._kernel(inputs.dense(), hidden, cell)
        weights = [self.recurrent()] if self.factor is None else [self.recurrent(), self.factor()]
        return recur(self.cell, self.output_gate, inputs.products(self), weights, hidden, cell, mask)

    def products(self, inputs: Tensor) -> Tensor:
        """All that the input gives the loop over time: (r, e) -> (r, 4n), 5n for mlstm, 8n for milstm."""
        if self.cell != "milstm":
            weight = self.input()
            return F.linear(inputs, weight, F.pad(self.bias, (0, weight.shape[0] - self.bias.shape[0])))
        product = F.linear(inputs, self.input())
        addend = self.beta_input * product + self.bias
        return torch.cat([addend, self.alpha * product + self.beta_hidden], -1)

    def _has_kernel(self, device: torch.device, mask: Tensor | None) -> bool:
        """Whether cuDNN has a kernel for this layer: the plain LSTM, without dropout of its hidden state."""
        plain = self.cell == "lstm" and self.output_gate == "outside" and mask is None
        return plain and device.type == "cuda" and torch.backends.cudnn.is_available()

    def _kernel(self, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The plain LSTM by torch's kernel, whose gates stand in the order input, forget, candidate, output."""
        order = [0, 1, 3, 2]

        def rows(weight: Tensor) -> Tensor:
            return weight.unflatten(0, (4, self.hidden_size))[order].flatten(0, 1)

        bias = rows(self.bias)
        weights = [rows(self.input()), rows(self.recurrent()), bias, torch.zeros_like(bias)]
        states = (hidden.to(inputs.dtype)[None], cell.to(inputs.dtype)[None])
        with warnings.catch_warnings():
            # cuDNN would like its weights in one piece, which saves a copy of them for a whole segment.
            warnings.filterwarnings("ignore", "RNN module weights")
            # The kernel keeps what a backward pass needs only if it is told that it trains.
            reads, last, last_cell = torch.lstm(
                inputs, states, weights, True, 1, 0.0, torch.is_grad_enabled(), False, False
            )  # biases, layers, dropout, train, bidirectional, batch first
        return reads, last[0], last_cell[0].to(cell.dtype)
