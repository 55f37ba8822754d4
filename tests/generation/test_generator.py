"""Text written with a cache is the text without one, whatever the window, its slide and the prompt."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from megachar.base.errors import CheckpointError, ConfigError
from megachar.families.transformer.generation import SlidingWindow
from megachar.families.transformer.model import Transformer
from megachar.generation.generator import generate
from megachar.generation.sampling import Sampler
from megachar.generation.settings import SamplingSettings, default_slide

MakeModel = Callable[..., Transformer]
GREEDY = SamplingSettings(greedy=True)


@torch.inference_mode()
def naive_logits(model: Transformer, symbols: list[int]) -> torch.Tensor:
    """Everything computed afresh, no cache."""
    return model(torch.tensor([symbols]))[0, -1]


def naive_greedy(model: Transformer, prompt: list[int], num_characters: int) -> list[int]:
    """The naive way: each character from the last t."""
    text = list(prompt)
    for _ in range(num_characters):
        text.append(int(naive_logits(model, text[-model.config.context :]).argmax()))
    return text[len(prompt) :]


def random_prompt(rng: np.random.Generator, size: int) -> list[int]:
    return [int(symbol) for symbol in rng.integers(0, 256, size=size)]


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_cached_logits_equal_recomputed_ones(make_model: MakeModel, rng: np.random.Generator, positions: str) -> None:
    model, text = make_model(40, positions), random_prompt(rng, 40)
    window = SlidingWindow(model, slide=10)
    torch.testing.assert_close(window.read(text[:7]), naive_logits(model, text[:7]))
    for i in range(7, 40):
        torch.testing.assert_close(window.advance(text[i]), naive_logits(model, text[: i + 1]))


def test_cached_greedy_text_inside_the_window(make_model: MakeModel, rng: np.random.Generator) -> None:
    model, prompt = make_model(64), random_prompt(rng, 5)
    assert list(generate(model, prompt, 60, Sampler(GREEDY, 256))) == naive_greedy(model, prompt, 60)


@pytest.mark.parametrize("prompt_size", [1, 12, 16, 17, 50])
def test_slide_of_one_is_the_naive_way(make_model: MakeModel, rng: np.random.Generator, prompt_size: int) -> None:
    model, prompt = make_model(16), random_prompt(rng, prompt_size)
    assert list(generate(model, prompt, 50, Sampler(GREEDY, 256), slide=1)) == naive_greedy(model, prompt, 50)


@pytest.mark.parametrize("slide", [1, 3, 16])
def test_what_is_seen_when_the_window_slides(make_model: MakeModel, rng: np.random.Generator, slide: int) -> None:
    model, text = make_model(16), random_prompt(rng, 60)
    window = SlidingWindow(model, slide)
    window.read(text[:10])
    seen = 10
    for i in range(10, 60):
        logits = window.advance(text[i])
        seen = seen + 1 if seen < 16 else 16 - slide + 1
        assert window.symbols == text[i + 1 - seen : i + 1]
        torch.testing.assert_close(logits, naive_logits(model, text[i + 1 - seen : i + 1]))


def test_long_prompt_counts_by_its_end(make_model: MakeModel, rng: np.random.Generator) -> None:
    model, prompt = make_model(16), random_prompt(rng, 40)
    long = list(generate(model, prompt, 30, Sampler(GREEDY, 256)))
    assert long == list(generate(model, prompt[-16:], 30, Sampler(GREEDY, 256)))


def test_same_seed_same_text(make_model: MakeModel, rng: np.random.Generator) -> None:
    model, prompt = make_model(16), random_prompt(rng, 5)
    seed = int(rng.integers(2**31))

    def text(seed: int) -> list[int]:
        torch.manual_seed(int(rng.integers(2**31)))  # the global generator must not matter
        return list(generate(model, prompt, 40, Sampler(SamplingSettings(temperature=3.0, seed=seed), 256)))

    assert text(seed) == text(seed)
    assert text(seed) != text(seed + 1)


def test_each_symbol_comes_at_once_and_without_inference_mode(make_model: MakeModel) -> None:
    model, passes = make_model(16), []
    model.head.register_forward_hook(lambda *_: passes.append(1))
    for number, _ in enumerate(generate(model, [1], 5, Sampler(GREEDY, 256)), start=1):
        assert len(passes) == number  # no pass ahead, and none after the last
        assert not torch.is_inference_mode_enabled()
    assert len(passes) == 5


def test_errors_come_at_the_call(make_model: MakeModel) -> None:
    model, sampler = make_model(16), Sampler(GREEDY, 256)
    with pytest.raises(ConfigError, match=r"prompt is empty.*no start symbol.*at least one character"):
        generate(model, [], 5, sampler)
    with pytest.raises(ConfigError, match=r"characters = 0: .*set 1 or more"):
        generate(model, [1], 0, sampler)
    for slide in (0, 17):
        with pytest.raises(ConfigError, match=rf"slide = {slide} is not from 1 to .* 16 characters; set 1 .* or 4"):
            generate(model, [1], 5, sampler, slide)


def test_default_slide() -> None:
    assert [default_slide(t) for t in (1, 3, 512)] == [1, 1, 128]


def test_diverged_model(make_model: MakeModel) -> None:
    model = make_model(16)
    with torch.no_grad():
        model.head.classifiers[0].bias.fill_(float("nan"))
    with pytest.raises(CheckpointError, match=r"logits are not finite.*earlier checkpoint with --step"):
        list(generate(model, [1], 5, Sampler(GREEDY, 256)))
