"""RMSprop with one length of update follows equation 22, on shards as on the whole, and goes on from its state."""

import math
import random
from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from megachar.optimizers.schedules import ScheduleConfig, learning_rate
from megachar.optimizers.updates.normalized_rmsprop import NormalizedRMSprop


def random_parameters(shapes: list[tuple[int, ...]]) -> list[Tensor]:
    return [torch.randn(shape).requires_grad_() for shape in shapes]


def length_of(before: list[Tensor], after: list[Tensor]) -> float:
    return math.sqrt(sum(float((one.detach() - two).square().sum()) for one, two in zip(after, before, strict=True)))


def test_equation_22(seed: int) -> None:
    """Length l exactly, along v = g / sqrt(s + eps), s a running mean; over all parameters of all groups."""
    parameters = random_parameters([(3, 4), (5,), (2, 2)])
    groups = [{"params": parameters[:2]}, {"params": parameters[2:]}]
    optimizer = NormalizedRMSprop(groups, lr=2.0)
    mean_squares = [torch.zeros_like(p) for p in parameters]
    for step in range(5):
        gradients = [torch.randn_like(p) * 10.0 ** random.uniform(-4, 2) for p in parameters]
        length = 2.0 * 0.5**step
        before = [p.detach().clone() for p in parameters]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        for group in optimizer.param_groups:
            group["lr"] = length
        optimizer.step()
        mean_squares = [0.9 * s + 0.1 * g * g for s, g in zip(mean_squares, gradients, strict=True)]
        v = [g / torch.sqrt(s + 1e-6) for s, g in zip(mean_squares, gradients, strict=True)]
        norm = math.sqrt(sum(float(part.square().sum()) for part in v))
        assert length_of(before, parameters) == pytest.approx(length, rel=1e-4)
        for parameter, old, part in zip(parameters, before, v, strict=True):
            torch.testing.assert_close(parameter.detach(), old - length * part / norm, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_shards_are_updated_as_the_whole(num_ranks: int, seed: int) -> None:
    """Each rank holds a part of one flat tensor, padded with zeros; squared norms are added over ranks."""
    size, width = 17, -(-17 // num_ranks)
    whole = torch.randn(size).requires_grad_()
    padded = torch.nn.functional.pad(whole.detach(), (0, num_ranks * width - size))
    shards = [piece.clone().requires_grad_() for piece in padded.split(width)]
    alone = NormalizedRMSprop([whole], lr=3.0)
    sums: list[Tensor] = []
    # The ranks take turns: in a first round all squared norms are known, in the second they are added.
    ranks = [NormalizedRMSprop([shard], lr=3.0, add_over_ranks=lambda s: s.copy_(sum(sums))) for shard in shards]
    for _ in range(3):
        whole.grad = torch.randn(size)
        parts = torch.nn.functional.pad(whole.grad, (0, num_ranks * width - size)).split(width)
        sums.clear()
        for rank, shard, part in zip(ranks, shards, parts, strict=True):
            shard.grad = part
            mean_square = rank.state[shard].get("mean_square", torch.zeros_like(shard))
            sums.append((part / torch.sqrt(0.9 * mean_square + 0.1 * part * part + 1e-6)).square().sum())
        alone.step()
        for rank in ranks:
            rank.step()
        torch.testing.assert_close(torch.cat([shard.detach() for shard in shards])[:size], whole.detach())


def test_no_gradient_is_no_update(seed: int) -> None:
    parameter = torch.randn(3).requires_grad_()
    before = parameter.detach().clone()
    optimizer = NormalizedRMSprop([parameter], lr=5.0)
    asked: list[float] = []
    optimizer.add_over_ranks = lambda squared: asked.append(float(squared))
    optimizer.step()
    parameter.grad = torch.zeros(3)
    optimizer.step()
    assert torch.equal(parameter.detach(), before)
    assert asked == [0.0, 0.0]  # a rank without gradients still takes part


def test_state_is_saved_and_goes_on(seed: int) -> None:
    first, second = torch.randn(4).requires_grad_(), torch.zeros(4).requires_grad_()
    one = NormalizedRMSprop([first], lr=0.1)
    gradients = [torch.randn(4) for _ in range(4)]
    for gradient in gradients[:2]:
        first.grad = gradient
        one.step()
    second.data.copy_(first.data)
    other = NormalizedRMSprop([second], lr=7.0)
    other.load_state_dict(deepcopy(one.state_dict()))
    for gradient in gradients[2:]:
        for parameter, optimizer in ((first, one), (second, other)):
            parameter.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(first, second)


def test_it_learns() -> None:
    target = torch.tensor([1.0, -2.0, 0.5])
    parameter = torch.zeros(3, requires_grad=True)
    optimizer = NormalizedRMSprop([parameter], lr=1.0)
    for step in range(300):
        for group in optimizer.param_groups:
            group["lr"] = max(0.001, 0.97**step)
        optimizer.step(lambda: _squared_error(parameter, target))
    assert float((parameter.detach() - target).norm()) < 0.05


def _squared_error(parameter: Tensor, target: Tensor) -> float:
    parameter.grad = None
    loss = (parameter - target).square().sum()
    loss.backward()
    return float(loss.detach())


def test_the_papers_lengths() -> None:
    """10 at first, times 0.9999 per update, not below 0.01; a warm-up comes before."""
    schedule = ScheduleConfig(shape="exponential", step_factor=0.9999, final_fraction=0.001)

    def length(step: int) -> float:
        return learning_rate(schedule, 10.0, 10**6, step)

    assert length(0) == 10.0
    assert length(1) == pytest.approx(9.999)
    assert length(10_000) == pytest.approx(10 * math.exp(-1), rel=1e-4)
    assert length(69_074) > 0.01 == length(69_075) == length(10**9)
    assert learning_rate(schedule.model_copy(update={"warmup_steps": 5}), 10.0, 10**6, 5) == 10.0


def test_adams_linear_decay_is_the_schedule_linear() -> None:
    """1e-3 at the first step, falling linearly to 7e-5 at the last (final_fraction 0.07)."""
    schedule = ScheduleConfig(shape="linear", final_fraction=0.07)
    rates = [learning_rate(schedule, 1e-3, 101, step) for step in range(101)]
    assert (rates[0], rates[100]) == (pytest.approx(1e-3), pytest.approx(7e-5))
    assert [a - b for a, b in pairwise(rates)] == [pytest.approx(9.3e-6)] * 100
