"""Weights of layers and targets over training: the paper's schedule, exact to the step, and every switch."""

import random

import pytest

from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.losses.auxiliary import layer_weights, silent_from, target_weights

DROP = AuxiliaryConfig()


@pytest.mark.parametrize(("num_layers", "total_steps"), [(2, 8), (4, 80), (12, 2400), (64, 128), (64, 4_000_000)])
def test_each_layer_falls_silent_on_time(num_layers: int, total_steps: int) -> None:
    """Layer l is heard at the step before l/(2n) of training, and no more at that step and after it."""
    interval = total_steps // (2 * num_layers)
    for layer in range(1, num_layers):
        end = layer * interval
        before, at, after = (layer_weights(DROP, num_layers, total_steps, end + by) for by in (-1, 0, 1))
        silent = (0.0,) * (layer - 1), (0.0,) * layer
        assert before == (*silent[0], *[1.0] * (num_layers - layer + 1))
        assert at == (*silent[1], *[1.0] * (num_layers - layer))
        if interval > 1:
            assert after == at


def test_the_papers_schedule() -> None:
    """T64 over 4M steps: one more layer silent every 31,250 steps, all intermediate ones from half-time on."""
    for step, silent in ((0, 0), (31_249, 0), (31_250, 1), (62_499, 1), (62_500, 2), (1_968_749, 62), (1_968_750, 63),
                         (2_000_000, 63), (3_999_999, 63)):  # fmt: skip
        assert layer_weights(DROP, 64, 4_000_000, step) == (0.0,) * silent + (1.0,) * (64 - silent)


def test_exact_integer_arithmetic(seed: int) -> None:
    """Step s hears layer l exactly when s * 2n < l * total, also where total is no multiple of 2n."""
    draw = random.Random(seed)
    for _ in range(200):
        num_layers, total = draw.randint(2, 64), draw.randint(1, 10**7)
        layer = draw.randint(1, num_layers - 1)
        near = layer * total // (2 * num_layers)
        for step in range(max(0, near - 1), near + 3):
            heard = layer_weights(DROP, num_layers, total, step)[layer - 1] > 0
            assert heard == (step * 2 * num_layers < layer * total), (num_layers, total, layer, step)


@pytest.mark.parametrize("decay", ["drop", "linear"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_only_the_last_layer_from_half_time_on(decay: str, reduction: str, seed: int) -> None:
    draw = random.Random(seed)
    config = AuxiliaryConfig.model_validate({"decay": decay, "reduction": reduction})
    for _ in range(50):
        num_layers, total = draw.randint(1, 64), draw.randint(1, 10**6)
        step = draw.randint((total + 1) // 2, total)
        assert layer_weights(config, num_layers, total, step) == (0.0,) * (num_layers - 1) + (1.0,)
        assert layer_weights(config, num_layers, total, draw.randrange(total))[-1] == 1.0


def test_linear_decay() -> None:
    config = AuxiliaryConfig(decay="linear")
    num_layers, total = 4, 80  # ends at 10, 20 and 30
    assert layer_weights(config, num_layers, total, 0) == (1.0, 1.0, 1.0, 1.0)
    assert layer_weights(config, num_layers, total, 5) == pytest.approx((1 / 2, 3 / 4, 5 / 6, 1.0))
    assert layer_weights(config, num_layers, total, 9) == pytest.approx((1 / 10, 11 / 20, 21 / 30, 1.0))
    assert layer_weights(config, num_layers, total, 10) == pytest.approx((0.0, 1 / 2, 2 / 3, 1.0))
    assert layer_weights(config, num_layers, total, 29) == pytest.approx((0.0, 0.0, 1 / 30, 1.0))
    assert layer_weights(config, num_layers, total, 30) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("decay", ["drop", "linear"])
def test_the_interval_can_be_set(decay: str) -> None:
    """Layer l ends at l x interval, whatever the total and the number of layers."""
    config = AuxiliaryConfig.model_validate({"interval_steps": 62_500, "decay": decay})
    for layer in (1, 31, 63):
        assert silent_from(layer, 64, 4_000_000, config.interval_steps) == layer * 62_500
        assert layer_weights(config, 64, 4_000_000, layer * 62_500 - 1)[layer - 1] > 0
        assert layer_weights(config, 64, 4_000_000, layer * 62_500)[layer - 1] == 0
    assert layer_weights(config, 64, 4_000_000, 62_500 // 2)[0] == (1.0 if decay == "drop" else 0.5)


def test_an_interval_of_a_fraction_of_a_step() -> None:
    weights = [layer_weights(AuxiliaryConfig(interval_steps=0.5), 4, 100, step) for step in range(3)]
    assert weights == [(1, 1, 1, 1), (0, 0, 1, 1), (0, 0, 0, 1)]


def test_mean_over_the_layers_that_are_heard() -> None:
    config = AuxiliaryConfig(reduction="mean")
    assert layer_weights(config, 5, 100, 0) == pytest.approx((1 / 4, 1 / 4, 1 / 4, 1 / 4, 1))
    assert layer_weights(config, 5, 100, 10) == pytest.approx((0, 1 / 3, 1 / 3, 1 / 3, 1))
    assert layer_weights(config, 5, 100, 39) == pytest.approx((0, 0, 0, 1, 1))
    linear = AuxiliaryConfig(reduction="mean", decay="linear")
    assert layer_weights(linear, 4, 80, 15) == pytest.approx((0, (1 / 4) / 2, (1 / 2) / 2, 1))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_switched_off(reduction: str) -> None:
    config = AuxiliaryConfig.model_validate({"intermediate_layers": False, "reduction": reduction})
    assert layer_weights(config, 5, 100, 0) == (0, 0, 0, 0, 1)


def test_one_layer() -> None:
    assert layer_weights(DROP, 1, 100, 0) == (1.0,)


def test_target_weights() -> None:
    assert target_weights(AuxiliaryConfig()) == (1.0, 0.5)
    assert target_weights(AuxiliaryConfig(num_targets=1)) == (1.0,)
    assert target_weights(AuxiliaryConfig(num_targets=4, extra_target_weight=0.2)) == (1.0, 0.2, 0.2, 0.2)
