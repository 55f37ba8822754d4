"""Masks of recurrent models are a function of seed, step, stream and place, constant over a segment."""

import pytest
import torch

from megachar.families.recurrent.model import RecurrentModel
from megachar.families.recurrent.settings import RecurrentConfig
from megachar.layers.recurrent import HiddenInputs, RecurrentLayer
from megachar.layers.variational import SegmentKey

KEY = SegmentKey(seed=5, step=7, streams=(4, 9))
LIKE = torch.ones(2, 40)


def test_a_mask_is_a_function_of_seed_step_stream_and_place() -> None:
    mask = KEY.mask(1, 0.5, LIKE)
    torch.manual_seed(3)  # torch's own generator does not matter
    assert torch.equal(SegmentKey(5, 7, (4, 9)).mask(1, 0.5, LIKE), mask)
    others = [SegmentKey(6, 7, (4, 9)), SegmentKey(5, 8, (4, 9)), SegmentKey(5, 7, (9, 4))]
    for row in range(2):
        for other in others:
            assert not torch.equal(other.mask(1, 0.5, LIKE)[row], mask[row])
        assert not torch.equal(KEY.mask(2, 0.5, LIKE)[row], mask[row])
    assert not torch.equal(mask[0], mask[1])


def test_a_streams_mask_does_not_depend_on_its_neighbors() -> None:
    mask = KEY.mask(1, 0.5, LIKE)
    assert torch.equal(SegmentKey(5, 7, (9, 1, 4)).mask(1, 0.5, torch.ones(3, 40)), torch.stack(
        [mask[1], SegmentKey(5, 7, (1,)).mask(1, 0.5, torch.ones(1, 40))[0], mask[0]]
    ))  # fmt: skip


def test_drawing_leaves_torchs_generator_alone() -> None:
    state = torch.random.get_rng_state()
    KEY.mask(0, 0.3, LIKE)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("probability", [0.2, 0.5])
def test_units_are_dropped_with_their_probability(probability: float) -> None:
    streams = tuple(range(100))
    mask = SegmentKey(1, 2, streams).mask(0, probability, torch.ones(100, 500, dtype=torch.float64))
    zeros = float((mask == 0).double().mean())
    assert zeros == pytest.approx(probability, abs=6 * (probability * (1 - probability) / mask.numel()) ** 0.5)
    torch.testing.assert_close(mask[mask != 0], torch.full_like(mask[mask != 0], 1 / (1 - probability)))
    assert mask.dtype == torch.float64


def kept(model: RecurrentModel, key: SegmentKey) -> list[torch.Tensor]:
    """Which units of the embedding (b, t, e), and of the hidden states (b, t, n) of each layer, are not dropped."""
    seen = []
    handles = [layer.register_forward_hook(lambda _, arguments, output: seen.extend((arguments, output)))
               for layer in model.layers]  # fmt: skip
    with torch.no_grad():
        model(torch.zeros(2, 10, dtype=torch.long), model.new_state(2), key)
    for handle in handles:
        handle.remove()
    return [(reads != 0).transpose(0, 1) for reads in (seen[0][0].dense(), seen[1][0], seen[3][0])]


def test_masks_are_constant_over_a_segment_and_fresh_in_the_next() -> None:
    config = RecurrentConfig(
        num_layers=2, hidden_size=64, embedding_size=64, vocabulary_size=4, hidden_dropout=0.4, embedding_dropout=0.4
    )
    model = RecurrentModel(config).train()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.1)
    first, following = (kept(model, SegmentKey(5, step, (4, 9))) for step in (7, 8))
    for one, other in zip(first, following, strict=True):
        assert bool((one == one[:, :1]).all())
        assert bool((other == other[:, :1]).all())
        assert not torch.equal(one[:, 0], other[:, 0])
        assert not torch.equal(one[0, 0], one[1, 0])
    assert not torch.equal(first[1], first[2])
    assert all(bool(reads.all()) for reads in kept(model.eval(), KEY))


def test_the_carried_state_is_not_masked(seed: int) -> None:
    """So that the next segment's mask is the only one it meets."""
    layer = RecurrentLayer("lstm", "outside", 3, 8, weight_norm=False)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    mask = KEY.mask(1, 0.5, torch.ones(2, 8))
    assert bool((mask == 0).any())
    reads, hidden, _ = layer(HiddenInputs(torch.randn(5, 2, 3)), torch.zeros(2, 8), torch.zeros(2, 8), mask)
    torch.testing.assert_close(hidden * mask, reads[-1])
    assert bool((hidden != 0).all())
