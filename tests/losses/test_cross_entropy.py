"""The loss is a sum of nats with the right gradient, and large logits do not overflow it."""

import pytest
import torch
from torch import Tensor

from megachar.losses.cross_entropy import CrossEntropy


def direct(logits: Tensor, targets: Tensor) -> float:
    """Minus the sum of log softmax at the targets, in float64, one prediction after another."""
    total = 0.0
    for row, target in zip(logits.double().flatten(0, -2), targets.flatten().tolist(), strict=True):
        total += float(torch.log(torch.exp(row - row.max()).sum()) + row.max() - row[target])
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 5, 17), (1, 1, 2), (7, 256)])
def test_sum_of_nats(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> None:
    """Half-precision logits are widened first: the sum is as exact as theirs allow."""
    logits = (torch.randn(shape) * 8).to(dtype)
    targets = torch.randint(shape[-1], shape[:-1])
    nats = CrossEntropy()(logits, targets)
    assert nats.shape == ()
    assert nats.dtype == torch.float32
    assert float(nats) == pytest.approx(direct(logits, targets), rel=2e-6, abs=1e-5)  # fp32 at logits of some 10


def test_it_is_a_sum_not_a_mean() -> None:
    nats = CrossEntropy()(torch.zeros(2, 3, 256), torch.zeros(2, 3, dtype=torch.long))
    assert float(nats) == pytest.approx(6 * 8 * 0.6931471805599453)


def test_large_logits_do_not_overflow() -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4]])
    assert float(CrossEntropy()(logits, torch.tensor([0]))) == 0.0
    assert float(CrossEntropy()(logits, torch.tensor([2]))) == pytest.approx(2e4)


def test_gradient_is_softmax_minus_target(seed: int) -> None:
    logits, targets = torch.randn(4, 9, requires_grad=True), torch.randint(9, (4,))
    CrossEntropy()(logits, targets).backward()
    expected = torch.softmax(logits.detach().double(), -1) - torch.nn.functional.one_hot(targets, 9)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.double(), expected, rtol=1e-5, atol=1e-6)
