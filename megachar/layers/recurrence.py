"""The loop over time of recurrent layers, with its backward pass written out.

Shapes: t characters of a segment, b streams, n hidden units; gates lie side by side, (b, 4n), in the order input,
forget, output, candidate.

Only what needs the character before is in the loop: the products with the hidden state, and the elementwise part,
fused where a compiler is at hand (`layers.fusion`). The input's products come in for the whole segment. The backward
pass gives each weight's gradient by one product for the whole segment, where autograd over a plain loop makes one per
character, b rows deep, and adds up matrices of the weight's size.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from megachar.layers.fusion import fused

CellName = Literal["mlstm", "lstm", "milstm"]
OutputGate = Literal["outside", "inside"]


def recur(
    cell_name: CellName,
    output_gate: OutputGate,
    products: Tensor,
    weights: Sequence[Tensor],
    hidden: Tensor,
    cell: Tensor,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one layer over a segment.

    Args:
        cell_name: `lstm`: gates = x + U h. `mlstm`: gates = x + W ((x_m) * (M h)), where x_m = W_mx x_t.
            `milstm`: gates = a * (U h) + x.
        output_gate: `outside`: h = tanh(c) * o; `inside`: h = tanh(c * o).
        products: of the input, all of the first character's first: (t b, 4n) x; for `mlstm` (t b, 5n), x and x_m; for
            `milstm` (t b, 8n), x and a. Overwritten by the gates, which spares memory of their size.
        weights: U (4n, n); for `mlstm` W (4n, n) and M (n, n).
        hidden: before the segment, (b, n), without dropout.
        cell: before the segment, (b, n), at least fp32.
        mask: what everything that reads the hidden state multiplies it by, (b, n): variational dropout.

    Returns:
        The hidden states as they are read, (t, b, n), mask and all; hidden and cell (b, n) after the segment.
    """
    weights = [weight.to(products.dtype) for weight in weights]  # autocast gives the products another type
    tensors = (products, hidden.to(products.dtype), cell, mask, *weights)
    # Inside the function gradients are off: whether a backward pass may follow has to be asked here.
    keep = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
    reads, hidden, cell, _ = _Recurrence.apply(cell_name, output_gate == "inside", keep, *tensors)
    return reads, hidden, cell


class _Cell(ABC):
    """What the cells do not share: how the gates come from the hidden state, forward and backward.

    `saved` holds what the backward pass needs, one row (b, ...) per character.
    """

    num_products: int
    """Width of the input's products, in n."""

    def __init__(self, products: Tensor, weights: Sequence[Tensor], saved: Sequence[Tensor]) -> None:
        """`products` is (t, b, ...)."""
        size = products.shape[-1] // self.num_products
        self.gates, self.other = products[..., : 4 * size], products[..., 4 * size :]
        self.weights, self.saved = weights, saved

    @staticmethod
    @abstractmethod
    def new_saved(weights: Sequence[Tensor], rows: int, streams: int) -> list[Tensor]:
        """Uninitialized `saved` for `rows` characters."""

    @abstractmethod
    def product(self, step: int, row: int, read: Tensor, out: Tensor) -> Tensor:
        """What the hidden state as read (b, n) gives the gates at `step`, (b, 4n); `out` is memory for it."""

    def factor(self, step: int) -> Tensor | None:
        """What that product is multiplied by, (b, 4n); None for nothing."""
        return None

    @abstractmethod
    def prepare_backward(self) -> None:
        """Make room for what `product_backward` leaves for `weight_gradients`."""

    @abstractmethod
    def product_backward(self, step: int, d_gates: Tensor, d_other: Tensor, d_read: Tensor) -> None:
        """From the gates' gradient (b, 4n), put that of the hidden state as read into `d_read`, of `other` there."""

    @abstractmethod
    def weight_gradients(self, d_gates: Tensor, reads: Tensor) -> list[Tensor]:
        """From the gates' gradients (t, b, 4n) and the states they read (t, b, n): the weights' gradients."""


class _Lstm(_Cell):
    num_products = 4

    @staticmethod
    def new_saved(weights: Sequence[Tensor], rows: int, streams: int) -> list[Tensor]:
        return []

    def product(self, step: int, row: int, read: Tensor, out: Tensor) -> Tensor:
        return torch.mm(read, self.weights[0].t(), out=out)

    def prepare_backward(self) -> None:
        pass

    def product_backward(self, step: int, d_gates: Tensor, d_other: Tensor, d_read: Tensor) -> None:
        torch.mm(d_gates, self.weights[0], out=d_read)

    def weight_gradients(self, d_gates: Tensor, reads: Tensor) -> list[Tensor]:
        return [_over_segment(d_gates, reads)]


class _MultiplicativeLstm(_Cell):
    """m = x_m * (M h); gates = x + W m (Krause et al. 2016)."""

    num_products = 5

    @staticmethod
    def new_saved(weights: Sequence[Tensor], rows: int, streams: int) -> list[Tensor]:
        return [weights[1].new_empty(rows, streams, weights[1].shape[0]) for _ in range(2)]  # M h, and m

    def product(self, step: int, row: int, read: Tensor, out: Tensor) -> Tensor:
        factors, intermediate = self.saved[0][row], self.saved[1][row]
        torch.mm(read, self.weights[1].t(), out=factors)
        torch.mul(self.other[step], factors, out=intermediate)
        return torch.mm(intermediate, self.weights[0].t(), out=out)

    def prepare_backward(self) -> None:
        self._d_factors = torch.empty_like(self.saved[0])
        self._d_intermediate = torch.empty_like(self.saved[0][0])

    def product_backward(self, step: int, d_gates: Tensor, d_other: Tensor, d_read: Tensor) -> None:
        torch.mm(d_gates, self.weights[0], out=self._d_intermediate)
        torch.mul(self._d_intermediate, self.saved[0][step], out=d_other)
        torch.mul(self._d_intermediate, self.other[step], out=self._d_factors[step])
        torch.mm(self._d_factors[step], self.weights[1], out=d_read)

    def weight_gradients(self, d_gates: Tensor, reads: Tensor) -> list[Tensor]:
        return [_over_segment(d_gates, self.saved[1]), _over_segment(self._d_factors, reads)]


class _MultiplicativeIntegrationLstm(_Cell):
    """gates = a * (U h) + x, with a and x from the input (Wu et al. 2016)."""

    num_products = 8

    @staticmethod
    def new_saved(weights: Sequence[Tensor], rows: int, streams: int) -> list[Tensor]:
        return [weights[0].new_empty(rows, streams, weights[0].shape[0])]  # U h

    def product(self, step: int, row: int, read: Tensor, out: Tensor) -> Tensor:
        return torch.mm(read, self.weights[0].t(), out=self.saved[0][row])

    def factor(self, step: int) -> Tensor | None:
        return self.other[step]

    def prepare_backward(self) -> None:
        self._d_product = torch.empty_like(self.saved[0])

    def product_backward(self, step: int, d_gates: Tensor, d_other: Tensor, d_read: Tensor) -> None:
        torch.mul(d_gates, self.saved[0][step], out=d_other)
        torch.mul(d_gates, self.other[step], out=self._d_product[step])
        torch.mm(self._d_product[step], self.weights[0], out=d_read)

    def weight_gradients(self, d_gates: Tensor, reads: Tensor) -> list[Tensor]:
        return [_over_segment(self._d_product, reads)]


_CELLS: dict[str, type[_Cell]] = {
    "lstm": _Lstm, "mlstm": _MultiplicativeLstm, "milstm": _MultiplicativeIntegrationLstm,
}  # fmt: skip


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, cell_name: str, inside: bool, keep: bool, products: Tensor, hidden: Tensor, cell: Tensor,
        mask: Tensor | None, *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        (streams, size), steps = hidden.shape, products.shape[0] // hidden.shape[0]
        rows = steps if keep else 1  # without a backward pass all characters share their buffers
        saved = _CELLS[cell_name].new_saved(weights, rows, streams)
        own = _CELLS[cell_name](products.unflatten(0, (steps, streams)), weights, saved)
        cells = cell.new_empty(rows + 1, streams, size)
        reads = products.new_empty(steps + 1, streams, size)
        cells[0], reads[0] = cell, hidden if mask is None else hidden * mask
        unmasked, memory = torch.empty_like(hidden), products.new_empty(streams, 4 * size)
        advance = fused("forward", products.device.type)
        for step in range(steps):
            row, before, after = (step, step, step + 1) if keep else (0, step % 2, 1 - step % 2)
            product = own.product(step, row, reads[step], memory)
            advance(
                product, own.factor(step), cells[before], mask, inside,
                own.gates[step], cells[after], unmasked, reads[step + 1],
            )  # fmt: skip
        ctx.mark_dirty(products)
        if keep:
            ctx.cell_name, ctx.inside, ctx.num_weights = cell_name, inside, len(weights)
            ctx.save_for_backward(products, cells, reads, mask, *weights, *saved)
            ctx.set_materialize_grads(False)
        last = reads[-1].clone() if mask is None else unmasked
        return reads[1:], last, cells[steps if keep else steps % 2].clone(), products

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_reads: Tensor | None, d_hidden: Tensor | None, d_cell: Tensor | None, _: None) -> Any:
        products, cells, reads, mask, *rest = ctx.saved_tensors
        steps, (streams, size) = reads.shape[0] - 1, reads.shape[1:]
        own = _CELLS[ctx.cell_name](
            products.unflatten(0, (steps, streams)), rest[: ctx.num_weights], rest[ctx.num_weights :]
        )
        own.prepare_backward()
        d_products = torch.empty_like(products)
        d_gates, d_others = d_products.unflatten(0, (steps, streams)).tensor_split([4 * size], -1)
        d_read = torch.zeros_like(reads[0])
        d_cell = torch.zeros_like(cells[0]) if d_cell is None else d_cell.clone()
        retreat = fused("backward", products.device.type)
        for step in reversed(range(steps)):
            retreat(
                d_read, None if d_reads is None else d_reads[step], d_hidden, d_cell, own.gates[step], cells[step],
                cells[step + 1], mask, ctx.inside, d_gates[step],
            )  # fmt: skip
            d_hidden = None  # only the last character's is the state after the segment
            own.product_backward(step, d_gates[step], d_others[step], d_read)
        d_before = d_read if mask is None else d_read * mask
        return None, None, None, d_products, d_before, d_cell, None, *own.weight_gradients(d_gates, reads[:-1])


def _over_segment(outputs: Tensor, inputs: Tensor) -> Tensor:
    """The gradient of a weight (o, i) from gradients of its outputs (t, b, o) and its inputs (t, b, i)."""
    return outputs.flatten(0, 1).t() @ inputs.flatten(0, 1)
