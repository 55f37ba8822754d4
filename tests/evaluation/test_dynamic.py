import math
import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megachar.config.recurrent import RecurrentConfig
from megachar.config.schema import TransformerConfig
from megachar.errors import CheckpointError, ConfigError
from megachar.evaluation.dynamic import (
    DynamicSettings,
    collect_mean_squares,
    dynamic_nats,
    recurrent_score,
    recurrent_segments,
    window_score,
    window_segments,
)
from megachar.evaluation.evaluate import evaluate
from megachar.evaluation.result import EvaluationSettings
from megachar.evaluation.windows import WindowPlan
from megachar.models.recurrent import RecurrentModel
from megachar.models.recurrent_initialization import initialize_recurrent
from tests.models.builders import random_model

CPU = torch.device("cpu")
CONFIG = RecurrentConfig(hidden_size=12, embedding_size=6, vocabulary_size=7, weight_norm=True)
TEXT = np.random.default_rng().integers(0, 7, size=83).astype(np.uint8)


def new_recurrent() -> RecurrentModel:
    return initialize_recurrent(RecurrentModel(CONFIG), seed=random.randrange(1000)).double().eval()


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
    score, zero = recurrent_score(model, CPU), model.new_state(1)
    squares = collect_mean_squares(model, score, recurrent_segments(TEXT, 10), zero) if rule == "rms" else None
    found = list(dynamic_nats(model, score, recurrent_segments(TEXT, 10), zero, settings, squares))
    assert [nats.shape for nats in found] == [(10,)] * 8 + [(2,)]
    assert [nats.sum() for nats in found] == pytest.approx(by_hand(model, TEXT, settings, squares), rel=1e-5)


def test_mean_squares_are_those_of_the_segments_gradients(seed: int) -> None:
    model = new_recurrent()
    found = collect_mean_squares(model, recurrent_score(model, CPU), recurrent_segments(TEXT, 30), model.new_state(1))
    state, total = model.new_state(1), {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for inputs, targets in recurrent_segments(TEXT, 30):
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
    before, score = copies(model), recurrent_score(model, CPU)
    settings = DynamicSettings("sgd", 1.0, 0.0, segment_length=10)

    def run(settings: DynamicSettings) -> Any:
        return dynamic_nats(model, score, recurrent_segments(TEXT, 10), model.new_state(1), settings)

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
        score = recurrent_score(model, CPU)
        found = np.concatenate(
            list(dynamic_nats(model, score, recurrent_segments(TEXT, 10), model.new_state(1), settings))
        )
        np.testing.assert_allclose(found[:compared], static[:compared], rtol=1e-4)
    assert not np.allclose(found[10:], static[10:], rtol=1e-4)


@pytest.mark.parametrize(("rule", "rate"), [("sgd", 1.0), ("rms", 0.015)])
def test_a_text_of_one_kind_is_learned_on_the_way(rule: str, rate: float, seed: int) -> None:
    """A model that knows nothing predicts a repeated word ever better."""
    model, text = new_recurrent().float(), np.tile(np.array([1, 5, 2, 2, 6], dtype=np.uint8), 80)
    score, zero = recurrent_score(model, CPU), model.new_state(1)
    settings = DynamicSettings(rule, rate, 0.001, epsilon=0.01, segment_length=10)  # type: ignore[arg-type]
    squares = collect_mean_squares(model, score, recurrent_segments(TEXT, 10), zero)
    found = list(dynamic_nats(model, score, recurrent_segments(text, 10), zero, settings, squares))
    assert found[0].mean() > 1.5
    assert np.concatenate(found[-8:]).mean() < 1.2


def test_windows_of_a_transformer(seed: int) -> None:
    """Each character is scored once, from its window; with hardly any step the figure is the static evaluation's."""
    config = TransformerConfig(num_layers=2, width=8, num_heads=2, feed_forward_width=8, context=16, vocabulary_size=7)
    model = random_model(config, None, scale=0.3).eval()
    plan = WindowPlan(TEXT.size, 16, stride=5)
    before, score = copies(model), window_score(model, CPU)

    def run(settings: DynamicSettings, squares: dict[str, Tensor] | None = None) -> Any:
        return np.concatenate(list(dynamic_nats(model, score, window_segments(TEXT, plan), None, settings, squares)))

    static = evaluate(model, TEXT, EvaluationSettings(stride=5, device="cpu")).nats
    still = run(DynamicSettings("sgd", 1e-12, 0.0, segment_length=5))
    assert still.size == TEXT.size - 1
    assert still.sum() + math.log(7) == pytest.approx(static, rel=1e-5)
    squares = collect_mean_squares(model, score, window_segments(TEXT, plan), None)
    for settings in (DynamicSettings("sgd", 0.05, 0.01), DynamicSettings("rms", 0.002, 0.01)):
        moved = run(settings, squares)
        np.testing.assert_allclose(moved[:16], still[:16], rtol=1e-5)
        assert not np.allclose(moved[16:], still[16:], rtol=1e-3)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "adam"}, r"rule = 'adam' .* set sgd or rms"),
        ({"learning_rate": 0.0}, r"learning rate = 0.0 .* set more than 0"),
        ({"decay": 1.5}, r"decay = 1.5 .* set 0 \(off\) to 1"),
        ({"epsilon": 0.0}, r"epsilon = 0.0 .* set 1e-5"),
        ({"segment_length": 0}, r"segment length = 0 .* set 20"),
        ({}, r"rule = rms .* needs mean squares .* set rule = sgd"),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, Any], message: str) -> None:
    model = new_recurrent()
    with pytest.raises(ConfigError, match=message):
        next(dynamic_nats(model, recurrent_score(model, CPU), [], model.new_state(1), DynamicSettings(**changes)))
