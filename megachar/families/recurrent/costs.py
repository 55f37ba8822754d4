"""What a recurrent model's layers cost. Imports no torch.

Shapes: b streams, t characters of a segment, e input size, n hidden units, v vocabulary. Counted in
`layers/recurrence.py`: the loop over time reads its weights anew for every character.
"""

from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.families.costs import LayerCost, ModelCosts, Passes, Share, Work
from megachar.families.recurrent.settings import RecurrentConfig

_SINGLE = 4
"""Bytes of a number in fp32, which cells and losses are kept in."""
_INDEX = 8
"""Bytes of a symbol's number."""
_ROWS = {"mlstm": 5, "lstm": 4, "milstm": 4}
"""Of the input's and of the hidden state's weights, in n."""
_PRODUCTS = {"mlstm": 5, "lstm": 4, "milstm": 8}
"""Numbers that the input gives the loop, for each hidden unit and character."""
_SAVED = {"mlstm": 2, "lstm": 0, "milstm": 8}
"""Numbers that are kept of products besides: in the loop, and before it where products are used twice."""


def model_costs(model: RecurrentConfig, auxiliary: AuxiliaryConfig, share: Share) -> ModelCosts:
    """See `families.costs`; nothing is handed on, for a recurrent model is never cut."""
    n, e, v = model.hidden_size, model.embedding_size, model.vocabulary_size
    layers = [LayerCost("embedding", 0, v * e, 1, Passes())] if e else []
    for index in range(model.num_layers):
        read = n if index else e or v
        matrices = _ROWS[model.cell] * n * (read + n)
        gains = 2 * _ROWS[model.cell] * n if model.weight_norm else 0
        vectors = 4 * n + (12 * n if model.cell == "milstm" else 0)
        looked_up = index == 0 and not e
        passes = _layer(model, share, 0 if looked_up else read)
        layers.append(LayerCost(f"layers.{index}", 0, matrices + gains + vectors, 4, passes))
    own = n * v + (v if model.softmax_bias else 0)
    layers.append(LayerCost("classifier", 0, own, 2, _classifier(model, share)))
    return ModelCosts(tuple(layers), 0.0)


def _layer(model: RecurrentConfig, share: Share, read: int) -> Passes:
    """`read`: size of what it multiplies for every character; 0 where symbols are looked up."""
    n, w, cell = model.hidden_size, share.bytes_per_number, model.cell
    steps, rows = model.segment_length, share.windows * model.segment_length
    flops = 2.0 * rows * _ROWS[cell] * n * (read + n)
    weights = w * steps * _ROWS[cell] * n * n
    gates = rows * n * (w * (2 * _PRODUCTS[cell] + 4) + 3 * _SINGLE)
    per_step = 3 if share.on_cpu is False else 12
    return Passes(
        Work(flops, gates + weights, steps * (per_step + 2)),
        Work(2 * flops, 2 * gates + weights, steps * (per_step + 4)),
        kept=rows * n * (w * (_PRODUCTS[cell] + 1 + _SAVED[cell]) + _SINGLE),
        working=rows * n * w * (_PRODUCTS[cell] + 1),
    )


def _classifier(model: RecurrentConfig, share: Share) -> Passes:
    rows, n, v = share.windows * model.segment_length, model.hidden_size, model.vocabulary_size
    w, flops = share.bytes_per_number, 2.0 * share.windows * model.segment_length * n * v
    return Passes(
        Work(flops, rows * v * (w + 3 * _SINGLE), 6),
        Work(2 * flops, rows * v * (6 * _SINGLE + w), 8),
        kept=rows * (_SINGLE * v + _INDEX),
        working=rows * v * 2 * _SINGLE,
    )
