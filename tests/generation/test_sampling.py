"""Temperature, top-k and top-p equal a direct computation, and draws come as often as they should."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from megachar.base.errors import ConfigError
from megachar.generation.sampling import Sampler
from megachar.generation.settings import SamplingSettings


def direct(logits: list[float], temperature: float, top_k: int, top_p: float) -> list[float]:
    """The distribution by plain arithmetic."""
    weights = [math.exp(x / temperature) for x in logits]
    ranked = sorted(range(len(logits)), key=lambda i: -weights[i])[:top_k]
    total, kept, reached = sum(weights[i] for i in ranked), [], 0.0
    for i in ranked:
        kept.append(i)
        reached += weights[i] / total
        if reached >= top_p:
            break
    total = sum(weights[i] for i in kept)
    return [weights[i] / total if i in kept else 0.0 for i in range(len(logits))]


def test_distribution_equals_direct_computation(rng: np.random.Generator) -> None:
    for _ in range(200):
        logits = rng.normal(0, 2, size=20).tolist()
        temperature, top_k = float(rng.uniform(0.3, 3)), int(rng.integers(1, 21))
        top_p = float(rng.choice([rng.uniform(0.05, 1), 1.0]))
        sampler = Sampler(SamplingSettings(temperature, top_k, top_p), 20)
        expected = direct(logits, temperature, top_k, top_p)
        np.testing.assert_allclose(sampler.probabilities(torch.tensor(logits)), expected, rtol=1e-5, atol=1e-12)


def test_defaults_are_the_model_itself(rng: np.random.Generator) -> None:
    logits = torch.from_numpy(rng.normal(0, 2, size=256))
    torch.testing.assert_close(Sampler(SamplingSettings(), 256).probabilities(logits), logits.softmax(0))
    # With p = 1 nothing is cut, not even what rounding would lose.
    for _ in range(50):
        kept = Sampler(SamplingSettings(top_p=1.0), 256).probabilities(torch.from_numpy(rng.normal(0, 10, size=256)))
        assert int((kept > 0).sum()) == 256


def test_frequencies(rng: np.random.Generator) -> None:
    logits, draws = torch.from_numpy(rng.normal(0, 1.5, size=12)), 4000
    sampler = Sampler(SamplingSettings(0.8, 6, 0.9, seed=int(rng.integers(2**31))), 12)
    counts = np.bincount([sampler(logits) for _ in range(draws)], minlength=12)
    expected = np.array(direct(logits.tolist(), 0.8, 6, 0.9)) * draws
    assert counts[expected == 0].sum() == 0
    deviation = np.sqrt(np.maximum(expected, 1.0))
    assert (np.abs(counts - expected) < 6 * deviation + 3).all(), (counts, expected)


def test_ties_leave_exactly_k() -> None:
    probabilities = Sampler(SamplingSettings(top_k=3), 10).probabilities(torch.zeros(10))
    assert int((probabilities > 0).sum()) == 3
    assert Sampler(SamplingSettings(greedy=True), 10)(torch.zeros(10)) == 0


def test_tiny_temperature_is_greedy(rng: np.random.Generator) -> None:
    logits = torch.from_numpy(rng.normal(0, 2, size=256))
    sampler = Sampler(SamplingSettings(temperature=5e-324), 256)
    assert {sampler(logits) for _ in range(20)} == {int(logits.argmax())}
    assert Sampler(SamplingSettings(top_p=1e-9), 256)(logits) == int(logits.argmax())


def test_a_fresh_seed_is_told() -> None:
    first, logits = Sampler(SamplingSettings(), 256), torch.zeros(256)
    again = Sampler(SamplingSettings(seed=first.seed), 256)
    assert [first(logits) for _ in range(20)] == [again(logits) for _ in range(20)]
    assert first.seed != Sampler(SamplingSettings(), 256).seed


@pytest.mark.parametrize(("wrong", "message"), [
    ({"temperature": 0.0}, r"temperature = 0\.0 is not a positive number; use --greedy"),
    ({"temperature": -1.0}, r"temperature = -1\.0 is not a positive"),
    ({"temperature": math.nan}, r"temperature = nan is not a positive"),
    ({"temperature": math.inf}, r"temperature = inf is not a positive"),
    ({"top_k": 0}, r"top-k = 0 is not from 1 to the model's 256 symbols"),
    ({"top_k": 257}, r"top-k = 257 is not from 1 to the model's 256 symbols"),
    ({"top_p": 0.0}, r"top-p = 0\.0 is no probability above 0"),
    ({"top_p": 1.5}, r"top-p = 1\.5 is no probability above 0"),
    ({"top_p": math.nan}, r"top-p = nan is no probability above 0"),
    ({"seed": -1}, r"seed = -1 is not from 0 to \d+"),
    ({"seed": 2**63}, r"seed = 9223372036854775808 is not from 0"),
    ({"greedy": True, "temperature": 0.5}, r"temperature = 0\.5 has no effect with greedy.*leave out --temperature"),
    ({"greedy": True, "top_k": 5}, r"top-k = 5 has no effect with greedy"),
    ({"greedy": True, "top_p": 0.5}, r"top-p = 0\.5 has no effect with greedy"),
    ({"greedy": True, "seed": 0}, r"seed = 0 has no effect with greedy"),
])  # fmt: skip
def test_wrong_settings(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampler(SamplingSettings(**wrong), 256)
