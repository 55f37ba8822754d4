"""The elementwise part of a recurrent step, forward and backward: some ten operations that want to be one.

Shapes: b streams, n hidden units; gates lie side by side, (b, 4n), in the order input, forget, output, candidate.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor


def step_forward(
    product: Tensor, factor: Tensor | None, cell: Tensor, mask: Tensor | None, inside: bool,
    gates: Tensor, next_cell: Tensor, hidden: Tensor, read: Tensor,
) -> None:  # fmt: skip
    """Equations of the cell after its products: c' = f c + i u, h = tanh(c') o, or tanh(c' o) with `inside`.

    Args:
        product: of the hidden state with the recurrent weights, (b, 4n).
        factor: of it, (b, 4n), or None for 1.
        cell: before the step, (b, n).
        mask: of the hidden state, (b, n), or None for 1.
        inside: the output gate stands inside the tanh.
        gates: what is added to it, (b, 4n); gets the gates.
        next_cell: gets the cell after the step, (b, n).
        hidden: gets the hidden state, (b, n), if there is a mask.
        read: gets the hidden state times the mask, (b, n).
    """
    size = cell.shape[1]
    if factor is None:
        gates.add_(product)
    else:
        gates.addcmul_(product, factor)
    i, f, o, u = gates.chunk(4, 1)
    u.copy_(_tanh(u))
    gates[:, : 3 * size].sigmoid_()
    torch.mul(f, cell, out=next_cell)
    next_cell.add_(i * u)
    unmasked = read if mask is None else hidden
    if inside:
        unmasked.copy_(_tanh(next_cell * o))
    else:
        torch.mul(_tanh(next_cell), o, out=unmasked)
    if mask is not None:
        torch.mul(hidden, mask, out=read)


def step_backward(
    d_read: Tensor, d_output: Tensor | None, d_hidden: Tensor | None, d_cell: Tensor, gates: Tensor, cell: Tensor,
    next_cell: Tensor, mask: Tensor | None, inside: bool, d_gates: Tensor,
) -> None:  # fmt: skip
    """The backward pass of `step_forward`.

    Args:
        d_read: gradient of the hidden state as the next step reads it, (b, n).
        d_output: the same, from what is above the layer.
        d_hidden: gradient of the hidden state without its mask.
        d_cell: gradient of the cell after the step, (b, n); gets that of the cell before it.
        gates: of the step, (b, 4n).
        cell: before the step, (b, n).
        next_cell: after the step, (b, n).
        mask: as in the forward pass.
        inside: as in the forward pass.
        d_gates: gets the gradient of the gates before their sigmoid or tanh, (b, 4n).
    """
    i, f, o, u = gates.chunk(4, 1)
    d_i, d_f, d_o, d_u = d_gates.chunk(4, 1)
    d = d_read if d_output is None else d_read + d_output
    if mask is not None:
        d = d * mask
    if d_hidden is not None:
        d = d + d_hidden
    squashed = _tanh(next_cell * o) if inside else _tanh(next_cell)
    if inside:
        d = d * (1 - squashed * squashed)
        d_o.copy_(d).mul_(next_cell)
        d_cell.add_(d * o)
    else:
        d_o.copy_(d).mul_(squashed)
        d_cell.add_((1 - squashed * squashed).mul_(o).mul_(d))
    # Not `torch.mul(..., out=d_i)`: that cannot be compiled where `out` is a part of the columns.
    d_i.copy_(d_cell).mul_(u)
    d_f.copy_(d_cell).mul_(cell)
    d_u.copy_(d_cell).mul_(i)
    sigmoids = slice(3 * cell.shape[1])
    d_gates[:, sigmoids].mul_(torch.addcmul(gates[:, sigmoids], gates[:, sigmoids], gates[:, sigmoids], value=-1))
    d_u.mul_(1 - u * u)
    d_cell.mul_(f)


def _tanh(x: Tensor) -> Tensor:
    """tanh, on a CPU by way of the sigmoid, which torch computes six times faster there; 1e-7 away at most in fp32."""
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64):
        return torch.sigmoid(2 * x).mul_(2).sub_(1)
    return torch.tanh(x)


@cache
def fused(direction: Literal["forward", "backward"], device_type: str) -> Callable[..., None]:
    """`step_forward` or `step_backward`, compiled into one kernel where that is worth it: on CUDA.

    On a CPU compiled code was no faster than the function as it stands (0.6 to 1 times, hidden sizes 256 and 512), and
    compiling takes 4 to 13 seconds.
    """
    function: Callable[..., None] = step_forward if direction == "forward" else step_backward
    return compiled_or_plain(function, example(direction, device_type)) if device_type == "cuda" else function


def compiled_or_plain(function: Callable[..., None], arguments: tuple[Any, ...]) -> Callable[..., None]:
    """The function compiled, or as it stands if it cannot be compiled and called with these arguments."""
    compiled = torch.compile(function, dynamic=False, fullgraph=True)
    try:
        compiled(*arguments)
    except Exception as error:  # of any kind: no compiler, no Triton, a driver too old for it
        reason = str(error).strip().splitlines()
        warnings.warn(f"recurrent steps are not fused: {reason[0] if reason else type(error).__name__}", stacklevel=2)
        return function
    return compiled


def example(direction: Literal["forward", "backward"], device_type: str) -> tuple[Any, ...]:
    """Arguments of one step: 2 streams, 16 hidden units."""

    def tensor(size: int) -> Tensor:
        return torch.zeros(2, size, device=device_type)

    one, four = 16, 64
    if direction == "forward":
        return (tensor(four), None, tensor(one), None, False,
                tensor(four), tensor(one), tensor(one), tensor(one))  # fmt: skip
    return (tensor(one), tensor(one), None, tensor(one), tensor(four), tensor(one),
            tensor(one), None, False, tensor(four))  # fmt: skip
