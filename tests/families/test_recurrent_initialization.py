"""Initial weights of recurrent models are drawn as in the papers, by seed and layer alone."""

import math

import pytest
import torch

from megachar.families.recurrent.initialization import initialize
from megachar.families.recurrent.model import RecurrentModel
from megachar.families.recurrent.settings import RecurrentConfig

CONFIG = RecurrentConfig(
    num_layers=2, hidden_size=32, embedding_size=16, vocabulary_size=11, weight_norm=True, forget_bias=3.0,
    orthogonal_scale=0.7,
)  # fmt: skip


def started(seed: int = 3, **settings: object) -> RecurrentModel:
    return initialize(RecurrentModel(CONFIG.model_copy(update=settings)), seed)


@pytest.mark.parametrize(("cell", "scale"), [("mlstm", 0.7), ("lstm", 0.7), ("milstm", 0.5)])
def test_hidden_weights_are_scaled_orthogonal_matrices(cell: str, scale: float) -> None:
    model = started(cell=cell, orthogonal_scale=scale)
    for layer in model.layers:
        squares = [*layer.recurrent.weight.split(32), *([layer.factor.weight] if cell == "mlstm" else [])]
        assert len(squares) == (5 if cell == "mlstm" else 4)
        for square in squares:
            torch.testing.assert_close(square @ square.T, scale**2 * torch.eye(32), rtol=1e-4, atol=1e-5)


def test_without_a_scale_they_are_normal() -> None:
    weight = started(orthogonal_scale=0.0, hidden_size=256).layers[0].recurrent.weight
    assert float(weight.detach().std()) == pytest.approx(1 / 16, rel=0.02)


def test_gains_start_as_the_rows_norms() -> None:
    """So that a normalized model starts as the same model without normalization."""
    normed, plain = started(), started(weight_norm=False)
    inputs = torch.randint(11, (2, 9))
    torch.testing.assert_close(normed(inputs, normed.new_state(2))[0], plain(inputs, plain.new_state(2))[0])


def test_only_the_forget_gate_has_a_bias() -> None:
    for layer in started().layers:
        assert [part.unique().tolist() for part in layer.bias.split(32)] == [[0.0], [3.0], [0.0], [0.0]]


@pytest.mark.parametrize("embedding_size", [0, 400])
def test_inputs_enter_at_the_same_size_either_way(embedding_size: int) -> None:
    """One-hot or through an embedding: half a unit at the gates, a whole one at the factor."""
    model = started(hidden_size=200, embedding_size=embedding_size, vocabulary_size=200)
    layer = model.layers[0]
    table = torch.eye(200) if model.embedding is None else model.embedding.weight
    gates, factor = (table @ layer.input().T).detach().split((800, 200), -1)
    assert float(gates.std()) == pytest.approx(0.5, rel=0.05)
    assert float(factor.std()) == pytest.approx(1.0, rel=0.05)
    assert abs(float(torch.corrcoef(torch.stack([gates[:, :200].flatten(), factor.flatten()]))[0, 1])) < 0.05


def test_multiplicative_integration_starts_with_all_of_its_terms() -> None:
    layer = started(cell="milstm").layers[0]
    parts = (layer.alpha, layer.beta_input, layer.beta_hidden)
    assert [part.unique().tolist() for part in parts] == [[1.0], [0.5], [0.5]]


def test_weights_are_a_function_of_the_seed_and_their_layer() -> None:
    one, again, other, deeper = started(), started(), started(seed=4), started(num_layers=3)
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name
        if parameter.dim() == 2:
            assert not torch.equal(parameter, other.get_parameter(name)), name
            assert torch.equal(parameter, deeper.get_parameter(name)) == ("classifier" not in name), name


@pytest.mark.parametrize("cell", ["mlstm", "lstm", "milstm"])
@pytest.mark.parametrize("embedding_size", [0, 16])
def test_the_first_loss_is_nearly_uniform_and_all_weights_learn(cell: str, embedding_size: int) -> None:
    model = started(cell=cell, embedding_size=embedding_size)
    inputs, targets = torch.randint(11, (4, 30)), torch.randint(11, (4, 30))
    nats, _ = model.nats(inputs, targets, model.new_state(4))
    nats.backward()
    assert float(nats.detach()) / 120 == pytest.approx(math.log(11), abs=0.1)
    assert all(bool(p.grad is not None and (p.grad != 0).any()) for p in model.parameters())
