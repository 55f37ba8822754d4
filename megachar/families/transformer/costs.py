"""What a transformer's layers cost. Imports no torch.

Shapes: b windows, t characters, d width, f feed-forward, h heads, v vocabulary, n targets. Counted in the source of
`model.py`, tensor by tensor: what is kept is what autograd saves for each operation. Numbers are of the working type,
but for the cross-entropy, and for attention on CPUs, which are in fp32.
"""

from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.families.costs import LayerCost, ModelCosts, Passes, Share, Work
from megachar.families.transformer.settings import TransformerConfig

_SINGLE = 4
"""Bytes of a number in fp32, and of the statistics of norms."""
_INDEX = 8
"""Bytes of a symbol's number."""


def model_costs(model: TransformerConfig, auxiliary: AuxiliaryConfig, share: Share) -> ModelCosts:
    """See `families.costs`."""
    d, v, tensor = model.width, model.vocabulary_size, share.tensor
    handed_on = float(share.bytes_per_number * share.windows * model.context * d)
    classifiers = _classifiers(model, auxiliary, share)
    num_heads = auxiliary.num_targets
    speaks = auxiliary.intermediate_layers
    own = num_heads * (d * v + v)
    table = model.context * d if model.positions == "learned" else 0
    matrices = 4 * d * d + 2 * d * model.feed_forward_width + model.feed_forward_width
    block, embedding = _block(model, share), _embedding(model, share)
    layers = [LayerCost("embedding", v * d, 0, 1, embedding)]
    for index in range(model.num_layers):
        has_own = speaks and index < model.num_layers - 1
        layers.append(
            LayerCost(
                f"blocks.{index}",
                matrices + (own if has_own else 0),
                table + 5 * d,
                (10 if table == 0 else 11) + (2 * num_heads if has_own else 0),
                block,
                classifiers if has_own else None,
            )
        )
    layers.append(LayerCost("head", own, 2 * d, 2 + 2 * num_heads, classifiers))
    assert all(layer.cut % tensor == 0 for layer in layers)
    return ModelCosts(tuple(layers), handed_on)


def _embedding(model: TransformerConfig, share: Share) -> Passes:
    rows, w, cut = share.windows * model.context, share.bytes_per_number, share.tensor > 1
    hidden = w * rows * model.width
    table = w * model.vocabulary_size * model.width / share.tensor
    forward = Work(moved=2 * hidden, kernels=6 if cut else 1, reduced=hidden * cut, reductions=int(cut))
    backward = Work(moved=2 * hidden + table, kernels=3)
    return Passes(forward, backward, kept=_INDEX * rows, working=hidden)


def _block(model: TransformerConfig, share: Share) -> Passes:
    d, tensor, w = model.width, share.tensor, share.bytes_per_number
    rows, own_d, own_f = share.windows * model.context, d / tensor, model.feed_forward_width / tensor
    flops = rows * (8 * d * own_d + 4 * d * own_f + 2 * own_d * (model.context + 1))
    hidden = w * rows * d
    reductions = 2 if tensor > 1 else 0
    # Read and written: positions, two norms, two residual sums, attention, ReLU; then dropout's mask and product.
    masks = 2.5 * own_f if model.drops_out else 0.0
    moved_forward = w * rows * (12 * d + 4 * own_d + 2 * own_f + masks)
    moved_backward = w * rows * (14 * d + 14 * own_d + 4 * own_f + masks)
    kept = rows * (w * (4 * d + own_f) + 4 * _SINGLE) + _kept_of_attention(model, share) + _kept_masks(model, share)
    if share.on_cpu:  # where the system has to clear what is newly allocated
        moved_forward += kept
    return Passes(
        Work(flops, moved_forward, 16 + 2 * model.drops_out, hidden * reductions, reductions),
        Work(2 * flops, moved_backward, 30 + 2 * model.drops_out, hidden * reductions, reductions),
        kept=kept,
        working=w * rows * (2 * own_f + 2 * d),
    )


def _kept_of_attention(model: TransformerConfig, share: Share) -> float:
    """Query, key, value, result, and a logarithm for each head and position."""
    rows, own_d = share.windows * model.context, model.width / share.tensor
    w, heads = share.bytes_per_number, model.num_heads / share.tensor
    logarithms = _SINGLE * rows * heads
    if share.on_cpu and model.drops_out:  # in plain operations: the weights are counted with the masks
        return rows * own_d * (3 * _SINGLE + w)
    if share.on_cpu and w != _SINGLE:  # computed in fp32, then converted back
        return rows * own_d * (4 * _SINGLE + w) + logarithms
    return rows * own_d * 4 * w + logarithms


def _kept_masks(model: TransformerConfig, share: Share) -> float:
    """What dropout adds. CPUs keep masks as numbers, and attention with dropout keeps its (t, t) weights there."""
    if not model.drops_out:
        return 0.0
    rows, own_f, w = share.windows * model.context, model.feed_forward_width / share.tensor, share.bytes_per_number
    if not share.on_cpu:
        return rows * own_f * (w + 1)
    weights = rows * model.context * model.num_heads / share.tensor
    return rows * own_f * 2 * w + weights * 3 * _SINGLE


def _classifiers(model: TransformerConfig, auxiliary: AuxiliaryConfig, share: Share) -> Passes:
    """A norm, n classifiers and their losses: of an intermediate layer, or of the last one."""
    rows = share.windows * (model.context if auxiliary.multiple_positions else 1)
    d, own_v, w, n = model.width, model.vocabulary_size / share.tensor, share.bytes_per_number, auxiliary.num_targets
    flops = rows * 2 * d * own_v * n
    cut = share.tensor > 1
    converted = 0 if w == _SINGLE else w + _SINGLE
    moved_forward = rows * (2 * w * d + n * own_v * (w + converted + 3 * _SINGLE))
    moved_backward = rows * ((6 + 2 * n) * w * d + n * own_v * (6 * _SINGLE + converted + w))
    return Passes(
        Work(flops, moved_forward, 1 + 7 * n, rows * 3 * _SINGLE * n * cut, 2 * n * cut),
        Work(2 * flops, moved_backward, 4 + 13 * n, rows * w * d * n * cut, n * cut),
        # The loss of a cut vocabulary is of plain operations, which keep logits and their exponentials.
        kept=rows * (2 * w * d + 2 * _SINGLE + n * (_SINGLE * own_v * (1 + cut) + _INDEX)),
        working=rows * own_v * ((4 if cut else 2) * _SINGLE + converted),
    )
