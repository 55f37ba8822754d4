"""RMSprop whose updates all have the same length (Krause et al. 2016, equation 22)."""

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor

AddOverRanks = Callable[[Tensor], Any]
"""Adds a tensor up over ranks, in place: `partial(dist.all_reduce, group=group)`."""


class NormalizedRMSprop(torch.optim.Optimizer):
    """w <- w - l v / |v| with v = g / sqrt(s + epsilon), s the running mean of g squared.

    `l` is the group's `lr`. |v| is the norm over all parameters of all groups together. Under ZeRO, where every rank
    holds another part of them, `add_over_ranks` adds the parts' squared norms; all ranks then have to call `step`, also
    those with no gradient. An update of norm 0 changes nothing.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 10.0,
        decay: float = 0.9,
        epsilon: float = 1e-6,
        add_over_ranks: AddOverRanks | None = None,
    ) -> None:
        """`lr` is the length of an update, `decay` that of the mean square per update, `epsilon` is added to it."""
        super().__init__(params, {"lr": lr, "decay": decay, "epsilon": epsilon})
        self.add_over_ranks = add_over_ranks

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update from the parameters' gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        directions = [(group["lr"], p, self._direction(p, group)) for group in self.param_groups
                      for p in group["params"] if p.grad is not None]  # fmt: skip
        first = self.param_groups[0]["params"][0]
        squared = torch.zeros((), dtype=torch.promote_types(first.dtype, torch.float32), device=first.device)
        for _, _, direction in directions:
            squared += direction.square().sum(dtype=squared.dtype).to(squared.device)
        if self.add_over_ranks is not None:
            self.add_over_ranks(squared)
        # Without waiting for the device: a norm of 0 gives 0 instead of infinity.
        scale = torch.where(squared > 0, squared.rsqrt(), torch.zeros_like(squared))
        for length, parameter, direction in directions:
            parameter.sub_(direction.mul_(length * scale.to(direction.device)))
        return loss

    def _direction(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[parameter]
        if "mean_square" not in state:
            state["mean_square"] = torch.zeros_like(parameter)
        gradient, mean_square = parameter.grad, state["mean_square"]
        assert gradient is not None
        mean_square.mul_(group["decay"]).addcmul_(gradient, gradient, value=1.0 - group["decay"])
        return gradient * (mean_square + group["epsilon"]).rsqrt()
