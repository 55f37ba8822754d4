"""Recurrent models against slow transcriptions of their equations, gradient by gradient."""

import random
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from torch import Tensor

from megachar.families.recurrent.model import RecurrentModel, State, fold
from megachar.families.recurrent.settings import RecurrentConfig
from megachar.layers.recurrent import HiddenInputs, Matrix, SymbolInputs
from megachar.layers.variational import SegmentKey
from tests.draws import fresh_random
from tests.families import slow_recurrent

CELLS = ("mlstm", "lstm", "milstm")
KEY = SegmentKey(seed=5, step=7, streams=(2, 0, 11))
SMALL = RecurrentConfig(hidden_size=6, vocabulary_size=9, segment_length=7)


def random_recurrent(**settings: Any) -> RecurrentModel:
    """Every parameter normal; torch's generator gives them."""
    model = RecurrentModel(SMALL.model_copy(update=settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.6)
    return model


def random_text(config: RecurrentConfig, streams: int = 3) -> tuple[Tensor, Tensor]:
    """Inputs and unrelated targets, (b, t) each."""
    shape = (streams, config.segment_length)
    return torch.randint(config.vocabulary_size, shape), torch.randint(config.vocabulary_size, shape)


def random_state(model: RecurrentModel, streams: int = 3) -> State:
    zeros = model.new_state(streams)
    return State(torch.randn_like(zeros.hidden), torch.randn_like(zeros.cell))


def masks_of(config: RecurrentConfig, key: SegmentKey, like: Tensor) -> list[Tensor]:
    """All masks of a model, in float64; of ones where nothing drops out."""
    streams = len(key.streams)
    masks = [key.mask(0, config.embedding_dropout, like.new_ones(streams, config.embedding_size or 1))]
    for place in range(1, config.num_layers + 1):
        masks.append(key.mask(place, config.hidden_dropout, like.new_ones(streams, config.hidden_size)))
    return masks


CASES = [
    {"cell": cell, "output_gate": gate, "num_layers": draw.choice([1, 2]), "weight_norm": draw.random() < 0.5,
     "embedding_size": size, "softmax_bias": draw.random() < 0.5, "hidden_dropout": dropout,
     "embedding_dropout": dropout if size else 0.0}
    for draw in [fresh_random()]
    for cell, gate, (size, dropout) in product(CELLS, ("outside", "inside"), ((0, 0.0), (5, 0.0), (0, 0.4), (5, 0.4)))
]  # fmt: skip


def name_of(settings: dict[str, Any]) -> str:
    """Of what is the same in every run of the tests: processes that share them must agree on their names."""
    return "-".join(str(settings[key]) for key in ("cell", "output_gate", "embedding_size", "hidden_dropout"))


@pytest.mark.parametrize("settings", CASES, ids=name_of)
def test_nats_gradients_and_state_of_the_slow_transcription(settings: dict[str, Any], seed: int) -> None:
    model = random_recurrent(**settings).double().train()
    config, (inputs, targets), state = model.config, random_text(model.config), random_state(model)
    state.hidden.requires_grad_()
    state.cell.requires_grad_()
    reads, after = model.hidden(inputs, state, KEY)
    toward = [torch.randn_like(part) for part in (reads, after.hidden, after.cell)]
    total = sum((part * to).sum() for part, to in zip((reads, after.hidden, after.cell), toward, strict=True))
    total.backward()

    plain = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    start, memory = (part.detach().clone().requires_grad_() for part in (state.hidden, state.cell))
    slow_reads, *slow_after = slow_recurrent.hidden_states(
        plain, config.cell, config.output_gate == "inside", inputs, config.vocabulary_size, start, memory,
        masks_of(config, KEY, start.detach()),
    )  # fmt: skip
    slow = (slow_reads.transpose(0, 1), *slow_after)
    for one, other in zip((reads, after.hidden, after.cell), slow, strict=True):
        torch.testing.assert_close(one, other)
    sum((part * to).sum() for part, to in zip(slow, toward, strict=True)).backward()
    for name, parameter in model.named_parameters():
        if not name.startswith("classifier"):
            torch.testing.assert_close(parameter.grad, plain[name].grad, msg=lambda m, n=name: f"{n}: {m}")
    torch.testing.assert_close(state.hidden.grad, start.grad)
    torch.testing.assert_close(state.cell.grad, memory.grad)
    nats, _ = model.nats(inputs, targets, state, KEY)
    expected = slow_recurrent.nats(plain, slow_reads, targets)
    assert nats.dtype == torch.float32
    assert float(nats.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize(("cell", "weight_norm"), list(product(CELLS, (False, True))))
def test_single_precision_is_the_transcriptions_too(cell: str, weight_norm: bool, seed: int) -> None:
    settings = {"cell": cell, "weight_norm": weight_norm, "embedding_size": 5, "num_layers": 2}
    model = random_recurrent(**settings, hidden_dropout=0.3, embedding_dropout=0.3).train()
    (inputs, targets), state = random_text(model.config), random_state(model)
    nats, _ = model.nats(inputs, targets, state, KEY)
    nats.backward()
    plain = {name: value.detach().double().requires_grad_() for name, value in model.named_parameters()}
    start, memory = state.hidden.double(), state.cell.double()
    masks = masks_of(model.config, KEY, start)
    reads, *_ = slow_recurrent.hidden_states(plain, cell, False, inputs, 9, start, memory, masks)
    expected = slow_recurrent.nats(plain, reads, targets)
    expected.backward()
    assert float(nats.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for name, parameter in model.named_parameters():
        reference = plain[name].grad
        assert parameter.grad is not None
        assert reference is not None
        assert float((parameter.grad - reference).norm()) < 2e-5 * float(reference.norm()) + 1e-6, name


def test_factor_identity(seed: int) -> None:
    """W_um m = W_um diag(W_mx x) W_mh h: the input chooses the hidden state's transition matrix."""
    model = random_recurrent(cell="mlstm").double()
    layer, x, h = model.layers[0], torch.randn(9, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    w_mx, w_um, w_mh = layer.input.weight[24:], layer.recurrent.weight[18:], layer.factor.weight
    transition = w_um @ torch.diag(w_mx @ x) @ w_mh
    slow = slow_recurrent.gates(slow_recurrent.under(model.state_dict(), "layers.0."), "mlstm", x, h)[18:]
    torch.testing.assert_close(transition @ h, slow - layer.input.weight[18:24] @ x - layer.bias[18:])
    # The layer's first candidate, seen through a cell that starts at 0: c = sigmoid(i) tanh(u).
    _, _, cell = layer(HiddenInputs(x[None, None]), h[None], torch.zeros(1, 6, dtype=torch.float64))
    m = (w_mx @ x) * (w_mh @ h)
    i, u = (rows @ x + w + b for rows, w, b in (
        (layer.input.weight[:6], layer.recurrent.weight[:6] @ m, layer.bias[:6]),
        (layer.input.weight[18:24], transition @ h, layer.bias[18:]),
    ))  # fmt: skip
    torch.testing.assert_close(cell[0], torch.sigmoid(i) * torch.tanh(u))


def test_gains_equal_to_the_rows_norms_change_nothing(seed: int) -> None:
    plain = random_recurrent(num_layers=2, embedding_size=5).eval()
    normed = random_recurrent(num_layers=2, embedding_size=5, weight_norm=True).eval()
    normed.load_state_dict(plain.state_dict(), strict=False)
    inputs, _ = random_text(plain.config)
    before, _ = normed(inputs, normed.new_state(3))
    matrices = [module for module in normed.modules() if isinstance(module, Matrix)]
    assert len(matrices) == 6
    for module in matrices:
        module.reset_gain()
        assert module.gain is not None
        torch.testing.assert_close(module.gain, module.weight.square().sum(1).sqrt())
    expected, _ = plain(inputs, plain.new_state(3))
    assert not torch.allclose(before, expected, atol=1e-2)
    torch.testing.assert_close(normed(inputs, normed.new_state(3))[0], expected)


def test_only_matrices_that_multiply_inputs_and_states_are_normalized() -> None:
    gains = {
        name for name, _ in random_recurrent(weight_norm=True, embedding_size=5).named_parameters() if "gain" in name
    }
    assert gains == {"layers.0.input.gain", "layers.0.recurrent.gain", "layers.0.factor.gain"}


@pytest.mark.parametrize("cell", CELLS)
def test_state_carried_on_is_one_long_segment(cell: str, seed: int) -> None:
    model = random_recurrent(cell=cell, num_layers=2, embedding_size=5).double().eval()
    inputs, _ = random_text(model.config.model_copy(update={"segment_length": 30}))
    state, logits = random_state(model), []
    whole, end = model(inputs, state)
    cut = random.Random(seed).sample(range(1, 30), 3)
    places = [0, *sorted(cut), 30]
    for first, last in pairwise(places):
        piece, state = model(inputs[:, first:last], state)
        logits.append(piece)
    torch.testing.assert_close(torch.cat(logits, 1), whole)
    torch.testing.assert_close(state.hidden, end.hidden)
    torch.testing.assert_close(state.cell, end.cell)


@pytest.mark.parametrize("length", [1, 6, 7])
@pytest.mark.parametrize("cell", CELLS)
def test_without_a_backward_pass_it_is_the_same(cell: str, length: int, seed: int) -> None:
    """Then buffers are shared by all characters."""
    model = random_recurrent(cell=cell, num_layers=2).double().eval()
    (inputs, _), state = random_text(model.config), random_state(model)
    logits, after = model(inputs[:, :length], state)
    with torch.inference_mode():
        again, again_after = model(inputs[:, :length], state)
    torch.testing.assert_close(again, logits)  # not to the bit: products round by where in memory their rows lie
    torch.testing.assert_close(again_after.hidden, after.hidden)
    torch.testing.assert_close(again_after.cell, after.cell)


def test_gradients_of_pieces_add_up_to_those_of_a_long_segment(seed: int) -> None:
    """Where the state between them is not detached; where it is, gradients stop there."""
    model = random_recurrent(num_layers=2).double()
    (inputs, targets), gradients = random_text(model.config), []
    for detach in (False, True):
        model.zero_grad()
        first, state = model.nats(inputs[:, :4], targets[:, :4], model.new_state(3))
        second, _ = model.nats(inputs[:, 4:], targets[:, 4:], state.detach() if detach else state)
        (first + second).backward()
        gradients.append(model.layers[0].recurrent.weight.grad.clone())
    model.zero_grad()
    model.nats(inputs, targets, model.new_state(3))[0].backward()
    torch.testing.assert_close(gradients[0], model.layers[0].recurrent.weight.grad, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(gradients[1], gradients[0], rtol=1e-3)


def test_streams_do_not_touch_each_other(seed: int) -> None:
    """A stream computed alone, with its state and its masks, is what it is among others."""
    model = random_recurrent(hidden_dropout=0.4, embedding_size=5, embedding_dropout=0.4).double().train()
    (inputs, _), state = random_text(model.config), random_state(model)
    together, after = model(inputs, state, KEY)
    for place, stream in enumerate(KEY.streams):
        row = slice(place, place + 1)
        alone = State(state.hidden[:, row], state.cell[:, row])
        logits, own = model(inputs[row], alone, SegmentKey(KEY.seed, KEY.step, (stream,)))
        torch.testing.assert_close(logits, together[row])
        torch.testing.assert_close(own.cell, after.cell[:, row])


def test_state_is_saved_by_stream(seed: int) -> None:
    model = random_recurrent(num_layers=2)
    state = random_state(model)
    saved = {name: rows[[2, 0]] for name, rows in state.tensors().items()}
    assert {name: rows.shape for name, rows in saved.items()} == {"hidden": (2, 2, 6), "cell": (2, 2, 6)}
    chosen = State.from_tensors(saved)
    assert torch.equal(chosen.hidden, state.hidden[:, [2, 0]])
    assert torch.equal(chosen.cell, state.cell[:, [2, 0]])


@pytest.mark.parametrize(("cell", "embedding_size"), list(product(CELLS, (0, 5))))
def test_folded_model_gives_the_same_output(cell: str, embedding_size: int, seed: int) -> None:
    settings = {"cell": cell, "embedding_size": embedding_size, "weight_norm": True, "num_layers": 2}
    model = random_recurrent(**settings, hidden_dropout=0.5).double().eval()
    folded = fold(model)
    assert not folded.training
    assert folded.embedding is None
    assert not [name for name in folded.state_dict() if "gain" in name or "embedding" in name]
    inputs, _ = random_text(model.config)
    state = random_state(model)
    for one, other in zip(model(inputs, state), folded(inputs, state), strict=True):
        if isinstance(one, State):
            one, other = one.cell, other.cell
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("cell", CELLS)
def test_symbols_looked_up_in_the_products_table(cell: str, seed: int) -> None:
    """More characters than symbols, and fewer, take two ways to the same products, with the same gradients."""
    model = random_recurrent(cell=cell, embedding_size=5).double()
    layer, inputs = model.layers[0], torch.randint(9, (4, 3))
    assert model.embedding is not None
    table = model.embedding.weight
    found = []
    for way in (SymbolInputs(inputs, table).products(layer), layer.products(table[inputs].flatten(0, 1))):
        model.zero_grad()
        (way * torch.arange(way.numel()).view_as(way).cos()).sum().backward()
        found.append([way.detach(), *(p.grad for p in (table, layer.input.weight, layer.bias))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_torchs_kernel_is_the_plain_lstm(seed: int) -> None:
    """What CUDA devices run; on a CPU it gives the same."""
    model = random_recurrent(cell="lstm", embedding_size=5, weight_norm=True).double()
    layer, inputs, state = model.layers[0], torch.randn(7, 3, 5, dtype=torch.float64), random_state(model)
    found = []
    for run in (layer, lambda inputs, *state: layer._kernel(inputs.dense(), *state)):
        model.zero_grad()
        reads, hidden, cell = run(HiddenInputs(inputs), state.hidden[0], state.cell[0])
        (reads.square().sum() + hidden.sum() - cell.sum()).backward()
        found.append([reads, hidden, cell, *(p.grad for p in layer.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_bf16_keeps_the_cell_in_fp32(seed: int) -> None:
    model = random_recurrent(num_layers=2, embedding_size=5, weight_norm=True).bfloat16()
    (inputs, targets), state = random_text(model.config), model.new_state(3)
    assert (state.hidden.dtype, state.cell.dtype) == (torch.bfloat16, torch.float32)
    nats, after = model.nats(inputs, targets, state)
    nats.backward()
    assert (nats.dtype, after.cell.dtype) == (torch.float32, torch.float32)
    exact = random_recurrent(num_layers=2, embedding_size=5, weight_norm=True)
    exact.load_state_dict(model.state_dict())
    expected, _ = exact.nats(inputs, targets, exact.new_state(3))
    expected.backward()
    assert float(nats.detach()) == pytest.approx(float(expected.detach()), rel=0.05)
    for (name, one), other in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert float((one.grad.float() - other.grad).norm()) < 0.1 * float(other.grad.norm()) + 0.02, name


def test_training_with_dropout_needs_a_key() -> None:
    model = random_recurrent(hidden_dropout=0.5).train()
    with pytest.raises(AssertionError, match="key of its masks"):
        model(torch.zeros(3, 2, dtype=torch.long), model.new_state(3))
