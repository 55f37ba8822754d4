"""A recurrent model writes what passes over the whole text would choose, and is left as it was."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch

from megachar.base.errors import CheckpointError, ConfigError
from megachar.families.recurrent.generation import SYMBOLS_AT_ONCE, CarriedState
from megachar.families.recurrent.model import RecurrentModel
from megachar.generation.generator import generate
from megachar.generation.sampling import Sampler
from megachar.generation.settings import SamplingSettings

MakeRecurrent = Callable[..., RecurrentModel]
GREEDY = SamplingSettings(greedy=True)


def random_prompt(rng: np.random.Generator, size: int) -> list[int]:
    return [int(symbol) for symbol in rng.integers(0, 20, size=size)]


@torch.inference_mode()
def from_the_whole_text(model: RecurrentModel, prompt: list[int], num_characters: int, sampler: Sampler) -> list[int]:
    """Each character chosen from one pass over all of the text before it, without folding."""
    text = list(prompt)
    for _ in range(num_characters):
        logits, _ = model(torch.tensor([text]), model.new_state(1))
        text.append(sampler(logits[0, -1]))
    return text[len(prompt) :]


CASES = [
    {"cell": cell, "embedding_size": size, "weight_norm": size > 0, "num_layers": layers, "hidden_dropout": 0.3}
    for cell, (size, layers) in product(("mlstm", "lstm", "milstm"), ((0, 1), (7, 2)))
]


@pytest.mark.parametrize("settings", CASES, ids=lambda s: f"{s['cell']}-{s['num_layers']}")
@pytest.mark.parametrize("chosen", [GREEDY, SamplingSettings(temperature=1.3, top_k=15, top_p=0.97, seed=3)])
def test_chosen_as_from_a_pass_over_the_whole_text(
    make_recurrent: MakeRecurrent, rng: np.random.Generator, settings: dict[str, object], chosen: SamplingSettings
) -> None:
    model, prompt = make_recurrent(**settings), random_prompt(rng, int(rng.integers(1, 9)))
    text = list(generate(model, prompt, 60, Sampler(chosen, 20)))
    assert text == from_the_whole_text(model, prompt, 60, Sampler(chosen, 20))


def test_a_long_prompt_is_read_whole(make_recurrent: MakeRecurrent, rng: np.random.Generator) -> None:
    model, prompt = make_recurrent(), random_prompt(rng, 2 * SYMBOLS_AT_ONCE + 3)
    text = CarriedState(model)
    with torch.inference_mode():
        logits, state = model(torch.tensor([prompt]), model.new_state(1))
        torch.testing.assert_close(text.read(prompt), logits[0, -1])
        following, _ = model(torch.tensor([[7]]), state)
    torch.testing.assert_close(text.advance(7), following[0, -1])
    torch.testing.assert_close(text.read(prompt), logits[0, -1])  # anew: nothing is left of what was read before


def test_the_model_stays_as_it_was(make_recurrent: MakeRecurrent) -> None:
    model = make_recurrent(weight_norm=True, embedding_size=4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    list(generate(model, [1], 5, Sampler(GREEDY, 20)))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_no_inference_mode_between_two_symbols(make_recurrent: MakeRecurrent) -> None:
    for _ in generate(make_recurrent(), [1], 3, Sampler(GREEDY, 20)):
        assert not torch.is_inference_mode_enabled()


def test_errors_come_at_the_call(make_recurrent: MakeRecurrent) -> None:
    model, sampler = make_recurrent(), Sampler(GREEDY, 20)
    with pytest.raises(ConfigError, match=r"prompt is empty.*no start symbol"):
        generate(model, [], 5, sampler)
    with pytest.raises(ConfigError, match=r"characters = 0: .*set 1 or more"):
        generate(model, [1], 0, sampler)
    with pytest.raises(ConfigError, match=r"slide = 1 has no effect with a recurrent model.*leave out --slide"):
        generate(model, [1], 5, sampler, slide=1)


def test_diverged_model(make_recurrent: MakeRecurrent) -> None:
    model = make_recurrent()
    with torch.no_grad():
        model.classifier.bias.fill_(float("nan"))
    with pytest.raises(CheckpointError, match=r"logits are not finite.*earlier checkpoint with --step"):
        list(generate(model, [1], 5, Sampler(GREEDY, 20)))
