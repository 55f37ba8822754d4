"""On a CUDA device: compiled steps and torch's kernel against the CPU, whose results are the equations'."""

import copy

import pytest
import torch

from tests.families.test_recurrent import CELLS, KEY, random_recurrent, random_state, random_text

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device on this machine"),
]


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("cell", CELLS)
def test_nats_state_and_gradients_are_those_of_the_cpu(cell: str, dropout: float, seed: int) -> None:
    settings = {"cell": cell, "num_layers": 2, "embedding_size": 5, "weight_norm": True}
    here = random_recurrent(**settings, hidden_dropout=dropout, embedding_dropout=dropout).double().train()
    there = copy.deepcopy(here).cuda()
    (inputs, targets), state = random_text(here.config), random_state(here)
    nats, after = here.nats(inputs, targets, state, KEY)
    on_gpu = type(state)(state.hidden.cuda(), state.cell.cuda())
    gpu_nats, gpu_after = there.nats(inputs.cuda(), targets.cuda(), on_gpu, KEY)
    nats.backward()
    gpu_nats.backward()
    torch.testing.assert_close(gpu_nats.cpu(), nats, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(gpu_after.cell.cpu(), after.cell)
    for (name, one), other in zip(here.named_parameters(), there.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert float((other.grad.cpu() - one.grad).norm()) < 1e-5 * float(one.grad.norm()) + 1e-7, name


def test_bf16_stays_close_to_fp32(seed: int) -> None:
    model = random_recurrent(hidden_size=64, embedding_size=16, weight_norm=True, hidden_dropout=0.2).cuda().train()
    inputs, targets = (part.cuda() for part in random_text(model.config))
    exact, _ = model.nats(inputs, targets, model.new_state(3), KEY)
    half = copy.deepcopy(model).bfloat16()
    rounded, after = half.nats(inputs, targets, half.new_state(3), KEY)
    rounded.backward()
    assert float(rounded.detach()) == pytest.approx(float(exact.detach()), rel=0.05)
    assert after.cell.dtype == torch.float32
    assert all(bool(parameter.grad.isfinite().all()) for parameter in half.parameters())
