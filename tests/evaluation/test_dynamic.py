"""Dynamic evaluation takes the paper's steps, gives the trained weights back, and without them is the static loss."""

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megachar.base.errors import CheckpointError, ConfigError
from megachar.evaluation.dynamic import MeanSquares, collect_mean_squares, dynamic_nats
from megachar.evaluation.evaluate import evaluate, evaluate_dynamically, training_mean_squares
from megachar.evaluation.settings import DynamicSettings, WindowSettings
from megachar.families.recurrent.initialization import initialize
from megachar.families.recurrent.model import RecurrentModel
from megachar.families.recurrent.scorer import reading as recurrent_reading
from megachar.families.recurrent.settings import RecurrentConfig
from megachar.families.transformer.scorer import reading as window_reading
from megachar.families.transformer.settings import TransformerConfig
from tests.families.builders import random_model

CPU = torch.device("cpu")
CONFIG = RecurrentConfig(hidden_size=12, embedding_size=6, vocabulary_size=7, weight_norm=True)
TEXT = np.random.default_rng().integers(0, 7, size=83).astype(np.uint8)


def new_recurrent() -> RecurrentModel:
    return initialize(RecurrentModel(CONFIG), seed=random.randrange(1000)).double().eval()


def copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def by_hand(
    model: RecurrentModel, text: Any, settings: DynamicSettings, mean_squares: dict[str, Tensor] | None
) -> list[float]:
    """The nats of every segment: score, differentiate, step; weights live in a dictionary."""
    trained, weights, state, sums = copies(model), copies(model), model.new_state(1), []
    for start in range(0, len(text) - 1, settings.segment_length):
        piece = torch.tensor(text[start : start + settings.segment_length + 1].astype(np.int64))
        leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
        logits, state = torch.func.functional_call(model, leaves, (piece[None, :-1], state.detach()))
        loss = F.cross_entropy(logits[0].float(), piece[1:])
        sums.append(float(loss.detach()) * (len(piece) - 1))
        gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        if mean_squares is not None:
            all_roots = torch.cat([value.sqrt().flatten() for value in mean_squares.values()])
        for name in weights:
            step, pull = settings.learning_rate * gradients[name], settings.decay * (trained[name] - weights[name])
            if mean_squares is not None:
                root = mean_squares[name].sqrt()
                step = step / (root + settings.epsilon)
                pull = torch.clamp(settings.decay * root / all_roots.mean(), max=1) * (trained[name] - weights[name])
            weights[name] = weights[name] - step + pull
    return sums


@pytest.mark.parametrize("rule", ["sgd", "rms"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_are_those_of_the_paper(rule: str, decay: float, seed: int) -> None:
    model, rate = new_recurrent(), 0.5 if rule == "sgd" else 0.002
    settings = DynamicSettings(rule, rate, decay, epsilon=1e-4, segment_length=10)  # type: ignore[arg-type]
    reading = recurrent_reading(model, CPU, 10, 1)
    squares = collect_mean_squares(model, reading, TEXT) if rule == "rms" else None
    found = list(dynamic_nats(model, reading, TEXT, settings, squares))
    assert [nats.shape for nats in found] == [(10,)] * 8 + [(2,)]
    assert [nats.sum() for nats in found] == pytest.approx(by_hand(model, TEXT, settings, squares), rel=1e-5)


def test_mean_squares_are_those_of_the_segments_gradients(seed: int) -> None:
    model = new_recurrent()
    heard: list[int] = []
    found = collect_mean_squares(model, recurrent_reading(model, CPU, 30, 1), TEXT, heard.append)
    assert heard == [30, 30, 22]
    state, total = model.new_state(1), {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for start in (0, 30, 60):
        piece = torch.tensor(TEXT[start : start + 31].astype(np.int64))[None]
        inputs, targets = piece[:, :-1], piece[:, 1:]
        model.zero_grad()
        nats, state = model.nats(inputs, targets, state.detach())
        (nats / inputs.numel()).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            total[name] += parameter.grad.square() / 3
    for name, value in total.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-4, atol=1e-12)


def test_the_trained_weights_come_back(seed: int) -> None:
    """Also when it is stopped half-way, or the loss runs away."""
    model = new_recurrent()
    before, reading = copies(model), recurrent_reading(model, CPU, 10, 1)
    settings = DynamicSettings("sgd", 1.0, 0.0, segment_length=10)

    def run(settings: DynamicSettings) -> Any:
        return dynamic_nats(model, reading, TEXT, settings)

    list(run(settings))
    running = run(settings)
    next(running)
    next(running)
    assert not torch.equal(model.classifier.weight, before["classifier.weight"])
    running.close()
    with pytest.raises(CheckpointError, match=r"became (nan|inf) under dynamic .* rate of 1e\+300: .* lower"):
        list(run(DynamicSettings("sgd", 1e300, 0.0, segment_length=10)))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name
        assert parameter.grad is None


def test_the_first_segment_and_tiny_steps_give_the_static_loss(seed: int) -> None:
    """Every segment is scored before the model learns from it."""
    model = new_recurrent()
    text = torch.tensor(TEXT.astype(np.int64))[None]
    logits, _ = model(text[:, :-1], model.new_state(1))
    static = F.cross_entropy(logits[0].float(), text[0, 1:], reduction="none").detach().numpy()
    for rate, compared in ((1e-12, 82), (1.0, 10)):
        settings = DynamicSettings("sgd", rate, 0.0, segment_length=10)
        found = np.concatenate(list(dynamic_nats(model, recurrent_reading(model, CPU, 10, 1), TEXT, settings)))
        np.testing.assert_allclose(found[:compared], static[:compared], rtol=1e-4)
    assert not np.allclose(found[10:], static[10:], rtol=1e-4)


@pytest.mark.parametrize(("rule", "rate"), [("sgd", 1.0), ("rms", 0.015)])
def test_a_text_of_one_kind_is_learned_on_the_way(rule: str, rate: float, seed: int) -> None:
    """A model that knows nothing predicts a repeated word ever better."""
    model, text = new_recurrent().float(), np.tile(np.array([1, 5, 2, 2, 6], dtype=np.uint8), 80)
    settings = DynamicSettings(rule, rate, 0.001, epsilon=0.01, segment_length=10)  # type: ignore[arg-type]
    reading = recurrent_reading(model, CPU, 10, 1)
    found = list(dynamic_nats(model, reading, text, settings, collect_mean_squares(model, reading, TEXT)))
    assert found[0].mean() > 1.5
    assert np.concatenate(found[-8:]).mean() < 1.2


def test_windows_of_a_transformer(seed: int) -> None:
    """Each character is scored once, from its window; with hardly any step the figure is the static evaluation's."""
    config = TransformerConfig(num_layers=2, width=8, num_heads=2, feed_forward_width=8, context=16, vocabulary_size=7)
    model = random_model(config, None, scale=0.3).eval()
    before, reading = copies(model), window_reading(model, CPU, 5, 1)

    def run(settings: DynamicSettings, squares: MeanSquares | None = None) -> Any:
        return np.concatenate(list(dynamic_nats(model, reading, TEXT, settings, squares)))

    static = evaluate(model, TEXT, WindowSettings(stride=5, device="cpu")).nats
    still = run(DynamicSettings("sgd", 1e-12, 0.0, segment_length=5))
    assert still.size == TEXT.size - 1
    assert still.sum() + math.log(7) == pytest.approx(static, rel=1e-5)
    squares = collect_mean_squares(model, reading, TEXT)
    for settings in (DynamicSettings("sgd", 0.05, 0.01), DynamicSettings("rms", 0.002, 0.01)):
        moved = run(settings, squares)
        np.testing.assert_allclose(moved[:16], still[:16], rtol=1e-5)
        assert not np.allclose(moved[16:], still[16:], rtol=1e-3)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def parts_by_hand(size: int, count: int) -> list[tuple[int, int]]:
    """Where parts begin and end as inputs: they differ by a character at most, and follow each other."""
    return [(k * (size - 1) // count, (k + 1) * (size - 1) // count) for k in range(count)]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_parts_are_read_side_by_side_and_learned_from_together(count: int, seed: int) -> None:
    """Recurrent: one step along the mean gradient of all characters that were scored; states are apart."""
    model, settings = new_recurrent(), DynamicSettings("sgd", 0.5, 0.1, segment_length=7, streams=count)
    trained, states, expected = copies(model), [model.new_state(1)] * count, []
    weights = copies(model)
    for start in range(0, 82, 7):
        leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
        losses = []
        for k, (begin, end) in enumerate(parts_by_hand(TEXT.size, count)):
            inputs = TEXT[begin + start : min(begin + start + 7, end)].astype(np.int64)
            if not inputs.size:
                continue
            targets = torch.tensor(TEXT[begin + start + 1 :][: inputs.size].astype(np.int64))
            arguments = (torch.tensor(inputs)[None], states[k].detach())
            logits, states[k] = torch.func.functional_call(model, leaves, arguments)
            losses.append(F.cross_entropy(logits[0], targets, reduction="none"))
        if not losses:
            break
        expected.append(torch.cat(losses).detach().numpy())
        gradients = torch.autograd.grad(torch.cat(losses).mean(), list(leaves.values()))
        for (name, value), gradient in zip(weights.items(), gradients, strict=True):
            weights[name] = value - 0.5 * gradient + 0.1 * (trained[name] - value)
    reading = recurrent_reading(model, CPU, 7, count)
    found = list(dynamic_nats(model, reading, TEXT, settings))
    assert [nats.size for nats in found] == [nats.size for nats in expected]
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), rtol=1e-5)


@pytest.mark.parametrize(("size", "count"), [(83, 3), (40, 4), (34, 2), (12, 5)])
def test_parts_of_a_transformer_are_texts_of_their_own(size: int, count: int, seed: int) -> None:
    config = TransformerConfig(num_layers=2, width=8, num_heads=2, feed_forward_width=8, context=16, vocabulary_size=7)
    model, text = random_model(config, None, scale=0.3).eval(), TEXT[:size]
    result = evaluate_dynamically(model, text, DynamicSettings("sgd", 1e-12, 0.0, segment_length=5, streams=count))
    used = min(count, (size - 1) // 5)
    assert result.settings.streams == used
    nats = 0.0
    for begin, end in parts_by_hand(size, used):
        nats += evaluate(model, text[begin : end + 1], WindowSettings(stride=5, device="cpu")).nats - math.log(7)
    assert result.nats == pytest.approx(nats + math.log(7), rel=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 30])
def test_short_texts(size: int, seed: int) -> None:
    model = new_recurrent()
    settings = DynamicSettings("rms", 1e-9, segment_length=8, streams=3)
    squares = training_mean_squares(model, TEXT, settings, "cpu")
    heard: list[int] = []
    result = evaluate_dynamically(model, TEXT[:size], settings, "cpu", mean_squares=squares, progress=heard.append)
    assert sum(heard) == result.num_characters == size
    assert result.settings.streams == (3 if size == 30 else 1)
    logits, _ = model(torch.tensor(TEXT[:size].astype(np.int64))[None], model.new_state(1))
    if size < 30:
        static = F.cross_entropy(logits[0, :-1], torch.tensor(TEXT[1:size].astype(np.int64)), reduction="sum")
        assert result.nats == pytest.approx(float(static.detach()) + math.log(7), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "adam"}, r"rule = 'adam' .* set sgd or rms"),
        ({"learning_rate": 0.0}, r"learning rate = 0.0 .* set more than 0"),
        ({"decay": 1.5}, r"decay = 1.5 .* set 0 \(off\) to 1"),
        ({"epsilon": 0.0}, r"epsilon = 0.0 .* set 1e-3"),
        ({"segment_length": 0}, r"segment length = 0 .* set 20"),
        ({"streams": 0}, r"streams = 0 of dynamic evaluation read nothing; set 1"),
        ({"statistics": 1}, r"statistics = 1 characters .* no gradient; set some 100000"),
        ({}, r"rule = rms .* needs mean squares .* set rule = sgd"),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, Any], message: str) -> None:
    model = new_recurrent()
    with pytest.raises(ConfigError, match=message):
        next(dynamic_nats(model, recurrent_reading(model, CPU, 10, 1), TEXT, DynamicSettings(**changes)))
