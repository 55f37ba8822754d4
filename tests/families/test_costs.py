"""Costs of layers: parameters and products are those counted elsewhere, activations those autograd keeps."""

import random
from typing import Any

import pytest
import torch
from torch import nn

from megachar.config.loading import load_experiment
from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.config.sections.model import ModelConfig
from megachar.families.costs import ModelCosts, Share, model_costs
from megachar.families.counting import count_parameters, forward_flops_per_character
from megachar.families.model import build_model
from megachar.families.parameters import layer_name, layer_names
from megachar.families.recurrent.settings import RecurrentConfig
from megachar.families.transformer.model import Transformer
from megachar.families.transformer.settings import TransformerConfig
from megachar.losses.auxiliary import layer_weights
from tests.config.conftest import BASE
from tests.families.builders import random_auxiliary, random_config
from tests.families.test_recurrent_counting import random_config as random_recurrent

SHARE = Share(windows=3, tensor=1, bytes_per_number=4, on_cpu=True)
NO_AUXILIARY = AuxiliaryConfig(intermediate_layers=False, num_targets=1)


def drawn(family: str, seed: int) -> tuple[ModelConfig, AuxiliaryConfig]:
    draw = random.Random(seed)
    if family == "recurrent":
        return random_recurrent(draw), NO_AUXILIARY
    return random_config(draw), random_auxiliary(draw)


@pytest.mark.parametrize("family", ["transformer", "recurrent"])
@pytest.mark.parametrize("seed", range(8))
def test_parameters_are_those_of_the_built_model(family: str, seed: int) -> None:
    model, auxiliary = drawn(family, seed)
    layers = model_costs(model, auxiliary, SHARE).layers
    assert [layer.name for layer in layers] == layer_names(model)
    assert sum(layer.parameters(1) for layer in layers) == sum(p.training for p in count_parameters(model, auxiliary))
    built: dict[str, list[int]] = {}
    for name, parameter in build_model(model, auxiliary).named_parameters():
        built.setdefault(layer_name(name), []).append(parameter.numel())
    assert {layer.name: layer.parameters(1) for layer in layers} == {name: sum(own) for name, own in built.items()}
    if family == "transformer":
        assert {layer.name: layer.tensors for layer in layers} == {name: len(own) for name, own in built.items()}


def test_tensor_ranks_share_what_the_table_cuts() -> None:
    model = load_experiment("t64-modern").model
    whole, half = (model_costs(model, AuxiliaryConfig(), Share(1, tensor, 2, False)).layers[1] for tensor in (1, 2))
    assert whole == half.__class__(**{**vars(half), "passes": whole.passes, "predicting": whole.predicting})
    assert half.parameters(2) * 2 - whole.parameters(1) == 512 * 512 + 5 * 512  # positions, norms, the bias of `down`
    assert half.passes.forward.flops * 2 == whole.passes.forward.flops
    assert half.passes.forward.reductions == 2
    assert whole.passes.forward.reductions == 0


def flops_of(costs: ModelCosts, num_speaking: int) -> float:
    speaking = [layer.predicting for layer in costs.layers if layer.predicting is not None][:num_speaking]
    return sum(passes.forward.flops for passes in [*(layer.passes for layer in costs.layers), *speaking])


@pytest.mark.parametrize("seed", range(6))
def test_products_are_those_counted(seed: int) -> None:
    model, auxiliary = drawn("transformer", seed)
    assert isinstance(model, TransformerConfig)
    for num_speaking in {0, model.num_layers - 1} if auxiliary.intermediate_layers else {0}:
        classifiers = auxiliary.classifiers_per_character(1 + num_speaking, model.context)
        counted = forward_flops_per_character(model, classifiers) * SHARE.windows * model.context
        assert flops_of(model_costs(model, auxiliary, SHARE), num_speaking) == pytest.approx(counted)
    recurrent, _ = drawn("recurrent", seed)
    counted = forward_flops_per_character(recurrent) * SHARE.windows * recurrent.window_length
    assert flops_of(model_costs(recurrent, NO_AUXILIARY, SHARE), 0) == pytest.approx(counted)


def kept_by_autograd(module: nn.Module, compute: Any) -> int:
    """Bytes of the storages that the graph of a loss keeps, without those of parameters."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = compute()
    assert loss.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_transformer_keeps_what_is_counted(precision: torch.dtype, dropout: float) -> None:
    config = TransformerConfig(num_layers=3, width=64, num_heads=2, feed_forward_width=192, context=64, dropout=dropout)
    auxiliary = AuxiliaryConfig()
    model = Transformer(config, auxiliary).to(precision).train()
    inputs = torch.randint(256, (4, config.context))
    targets = torch.randint(256, (4, config.context, auxiliary.num_targets))
    weights = layer_weights(auxiliary, config.num_layers, 10, 0)

    from megachar.layers.dropout import DropoutKey

    key = DropoutKey(1, 0, 0) if dropout else None
    measured = kept_by_autograd(model, lambda: model.losses(inputs, targets, auxiliary, weights, key)[0])
    costs = model_costs(config, auxiliary, Share(4, 1, precision.itemsize, on_cpu=True))
    counted = sum(layer.passes.kept + (layer.predicting.kept if layer.predicting else 0) for layer in costs.layers)
    assert counted == pytest.approx(measured, rel=0.03)


@pytest.mark.parametrize("cell", ["mlstm", "lstm", "milstm"])
def test_a_recurrent_model_keeps_what_is_counted(cell: str) -> None:
    config = RecurrentConfig.model_validate(
        {"cell": cell, "hidden_size": 96, "num_layers": 2, "segment_length": 40, "embedding_size": 16}
    )
    model: Any = build_model(config, NO_AUXILIARY)
    inputs = torch.randint(256, (6, config.segment_length))
    measured = kept_by_autograd(model, lambda: model.nats(inputs, inputs, model.new_state(6))[0])
    costs = model_costs(config, NO_AUXILIARY, Share(6, 1, 4, on_cpu=True))
    assert sum(layer.passes.kept for layer in costs.layers) == pytest.approx(measured, rel=0.1)


def test_a_block_keeps_48_bytes_for_each_number_of_its_hidden_state_in_fp32() -> None:
    """24 in bf16 with a fused kernel, 34 on a CPU, where attention computes in fp32."""
    model = load_experiment(BASE, ["model.width=512", "model.feed_forward_width=2048", "model.context=512"]).model
    for share, expected in ((Share(1, 1, 4, True), 48), (Share(1, 1, 2, True), 34), (Share(1, 1, 2, False), 24)):
        kept = model_costs(model, AuxiliaryConfig(), share).layers[1].passes.kept
        assert kept / (512 * 512) == pytest.approx(expected, rel=0.01)
