"""The transformer against a slow transcription of its equations: losses, gradients, and no look at the future."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.families.transformer.model import Transformer
from megachar.families.transformer.settings import TransformerConfig
from megachar.layers.attention import new_caches
from megachar.layers.dropout import DropoutKey
from megachar.losses.auxiliary import layer_weights, target_weights
from tests.families.builders import random_auxiliary, random_batch, random_config, random_model
from tests.families.slow_transformer import losses as slow_losses

SMALL = TransformerConfig(num_layers=3, width=12, num_heads=2, feed_forward_width=20, context=8, vocabulary_size=11)


@contextmanager
def outputs_of(modules: Sequence[tuple[str, nn.Module]]) -> Iterator[dict[str, list[Tensor]]]:
    """Collects what the named modules return."""
    found: dict[str, list[Tensor]] = {name: [] for name, _ in modules}

    def keep(name: str) -> Any:
        return lambda module, arguments, output: found[name].append(output.detach())

    handles = [module.register_forward_hook(keep(name)) for name, module in modules]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def classifiers(model: Transformer) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in model.named_modules() if name.split(".")[-2:-1] == ["classifiers"]]


@pytest.mark.parametrize("attempt", range(8))
def test_losses_and_gradients_of_the_slow_transcription(attempt: int, seed: int) -> None:
    draw = random.Random(seed)
    config, auxiliary = random_config(draw), random_auxiliary(draw)
    inner = [draw.choice([0.0, 1.0, draw.random()]) for _ in range(config.num_layers - 1)]
    weights = [weight if auxiliary.intermediate_layers else 0.0 for weight in inner] + [1.0]
    model = random_model(config, auxiliary).double()
    inputs, targets = random_batch(config, auxiliary.num_targets)
    total, sums = model.losses(inputs, targets, auxiliary, weights)
    total.backward()

    plain = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    extra = [auxiliary.extra_target_weight] * (auxiliary.num_targets - 1)
    expected, table = slow_losses(
        plain, inputs, targets, config.num_heads, weights, [1.0, *extra], auxiliary.multiple_positions
    )
    expected.backward()
    torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(sums.float(), table, rtol=1e-5, atol=1e-5)
    largest = max(float(value.grad.norm()) for value in plain.values() if value.grad is not None)
    for name, parameter in model.named_parameters():
        reference = plain[name].grad
        assert (parameter.grad is None) == (reference is None), name
        if parameter.grad is not None and reference is not None:
            error = float((parameter.grad - reference).norm())  # only the cross-entropy is in fp32
            assert error < 1e-5 * float(reference.norm()) + 1e-6 * largest, f"{name}: {error}"


def test_single_precision_is_the_transcriptions_too(seed: int) -> None:
    auxiliary = AuxiliaryConfig()
    model = random_model(SMALL, auxiliary)
    inputs, targets = random_batch(SMALL, 2)
    plain = {name: value.detach().double() for name, value in model.named_parameters()}
    expected, _ = slow_losses(plain, inputs, targets, 2, [1.0] * 3, [1.0, 0.5], True)
    total, sums = model.losses(inputs, targets, auxiliary, [1.0] * 3)
    assert float(total.detach()) == pytest.approx(float(expected), rel=1e-5)
    assert (total.dtype, sums.dtype) == (torch.float32, torch.float32)
    assert not sums.requires_grad


def test_losses_are_in_fp32_under_bf16(seed: int) -> None:
    model = random_model(SMALL, AuxiliaryConfig(), scale=0.1).bfloat16()
    total, sums = model.losses(*random_batch(SMALL, 2), AuxiliaryConfig(), [1.0] * 3)
    assert (total.dtype, sums.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_no_logit_sees_the_future(training: bool, positions: str, seed: int) -> None:
    """Another character at a place leaves the logits of every layer and target before it as they are, to the bit."""
    config = SMALL.model_copy(update={"dropout": 0.3, "positions": positions})
    auxiliary, key = AuxiliaryConfig(), DropoutKey(1, 2, 3)
    model = random_model(config, auxiliary).train(training)
    inputs, targets = random_batch(config, 2)
    place = random.Random(seed).randint(1, config.context - 1)
    changed = inputs.clone()
    changed[:, place] = (changed[:, place] + 1) % config.vocabulary_size
    logits = []
    for symbols in (inputs, changed):
        with torch.no_grad(), outputs_of(classifiers(model)) as found:
            model.losses(symbols, targets, auxiliary, [1.0] * 3, key if training else None)
        logits.append(found)
    assert len(logits[0]) == 6
    for name, (before,) in logits[0].items():
        after = logits[1][name][0]
        assert torch.equal(before[:, :place], after[:, :place]), f"{name} at {place}"
        assert not torch.equal(before[:, place], after[:, place]), f"{name} at {place}"
    if not training:
        assert torch.equal(model(inputs)[:, :place], model(changed)[:, :place])


def test_the_context_is_used(seed: int) -> None:
    """The last prediction depends on the first character."""
    model = random_model(SMALL, None)
    inputs, _ = random_batch(SMALL, 1)
    changed = inputs.clone()
    changed[:, 0] = (changed[:, 0] + 1) % SMALL.vocabulary_size
    assert not torch.allclose(model(inputs)[:, -1], model(changed)[:, -1])


def test_inference_needs_no_auxiliary_classifier(seed: int) -> None:
    draw = random.Random(seed)
    config, auxiliary = random_config(draw, num_layers=4), AuxiliaryConfig(num_targets=draw.randint(1, 3))
    trained, plain = random_model(config, auxiliary), Transformer(config, None)
    state = trained.state_dict()
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    removed = sorted(state.keys() - plain.state_dict().keys())
    assert removed
    assert all("auxiliary" in name or "head.classifiers." in name for name in removed)
    inputs, targets = random_batch(config, auxiliary.num_targets)
    with outputs_of(classifiers(trained)) as found:
        trained.losses(inputs, targets, auxiliary, [1.0] * 4)
    assert torch.equal(plain(inputs), trained(inputs))
    assert torch.equal(plain(inputs), found["head.classifiers.0"][0])


def test_silent_layers_compute_nothing(seed: int) -> None:
    auxiliary = AuxiliaryConfig()
    model = random_model(SMALL, auxiliary)
    inputs, targets = random_batch(SMALL, 2)
    for weights in ((0.0, 1.0, 1.0), (0.0, 0.0, 1.0), (1.0, 0.0, 1.0), (0.3, 0.2, 1.0)):
        model.zero_grad()
        with outputs_of(classifiers(model)) as found:
            total, sums = model.losses(inputs, targets, auxiliary, weights)
        total.backward()
        for layer, weight in enumerate(weights):
            heard = weight > 0
            head = "head" if layer == 2 else f"blocks.{layer}.auxiliary"
            assert [len(found[f"{head}.classifiers.{j}"]) for j in range(2)] == [int(heard)] * 2, weights
            for name, parameter in model.get_submodule(head).named_parameters():
                assert (parameter.grad is not None) == heard, (weights, name)
            assert bool((sums[layer] > 0).all() if heard else (sums[layer] == 0).all())
        assert all(p.grad is not None for n, p in model.named_parameters() if "classifiers" not in n)


def test_auxiliary_losses_reach_only_the_layers_below(seed: int) -> None:
    auxiliary = AuxiliaryConfig()
    model = random_model(SMALL, auxiliary)
    model.losses(*random_batch(SMALL, 2), auxiliary, (0.0, 1.0, 0.0))[0].backward()
    reached = {name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None and "blocks" in name}
    assert reached == {"0", "1"}
    assert all(parameter.grad is None for parameter in model.head.parameters())


def test_intermediate_layers_switched_off_have_no_classifiers() -> None:
    model = Transformer(SMALL, AuxiliaryConfig(intermediate_layers=False, num_targets=3))
    assert [name for name, _ in classifiers(model)] == [f"head.classifiers.{j}" for j in range(3)]
    assert [name for name, _ in classifiers(Transformer(SMALL, None))] == ["head.classifiers.0"]


def test_weights_must_be_one_per_layer() -> None:
    model = random_model(SMALL, AuxiliaryConfig())
    with pytest.raises(ValueError, match=r"shorter|longer"):
        model.losses(*random_batch(SMALL, 2), AuxiliaryConfig(), (1.0, 1.0))


def test_a_step_of_the_schedule(seed: int) -> None:
    """layer_weights and target_weights fit what losses() takes: the total is the sum over active terms."""
    auxiliary = AuxiliaryConfig(decay="linear")
    model, (inputs, targets) = random_model(SMALL, auxiliary), random_batch(SMALL, 2)
    weights = layer_weights(auxiliary, 3, 600, 150)
    total, sums = model.losses(inputs, targets, auxiliary, weights)
    by_hand = torch.tensor(weights) @ sums @ torch.tensor(target_weights(auxiliary)) / inputs.numel()
    assert weights == (0.0, 0.25, 1.0)
    assert float(total.detach()) == pytest.approx(float(by_hand), rel=1e-5)


def test_positions_are_added_to_the_input_of_every_layer(seed: int) -> None:
    """With attention and feed-forward silenced, the hidden state is the embedding and the sum of the tables."""
    model = random_model(SMALL, None)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attention.output" in name or "feed_forward.down" in name:
                parameter.zero_()
    inputs, _ = random_batch(SMALL, 1)
    tables = [block.positions.table for block in model.blocks]
    torch.testing.assert_close(model.hidden(inputs), model.embedding(inputs) + sum(tables))
    assert len({table.data_ptr() for table in tables}) == 3


def test_cached_logits_are_those_of_the_window(seed: int) -> None:
    model = random_model(SMALL, None).eval()
    inputs, _ = random_batch(SMALL, 1)
    caches, prompt = new_caches(3, SMALL.context), random.Random(seed).randint(1, 7)
    pieces = [model(inputs[:, :prompt], caches)]
    pieces += [model(inputs[:, place : place + 1], caches) for place in range(prompt, SMALL.context)]
    torch.testing.assert_close(torch.cat(pieces, 1), model(inputs), rtol=1e-4, atol=1e-5)
