"""Position tables, sinusoidal and learned: their values, precision and parameters."""

import math

import pytest
import torch

from megachar.layers.positions import LearnedPositions, SinusoidalPositions


@pytest.mark.parametrize(("context", "width"), [(7, 6), (5, 9), (3, 1), (513, 2), (512, 512)])
def test_sinusoidal_table(context: int, width: int) -> None:
    """Vaswani et al. (2017), 3.5: sin(p / 10000^(2i/d)) at 2i, the cosine of the same at 2i + 1."""
    table = SinusoidalPositions(context, width).table
    assert table.shape == (context, width)
    for position in {0, 1, context // 2, context - 1}:
        for feature in {0, width // 2, width - 1}:
            angle = position / 10_000 ** (2 * (feature // 2) / width)
            expected = math.cos(angle) if feature % 2 else math.sin(angle)
            assert float(table[position, feature]) == pytest.approx(expected, abs=1e-6), (position, feature)


def test_sinusoidal_has_nothing_to_train_or_save() -> None:
    positions = SinusoidalPositions(8, 4)
    assert not list(positions.parameters())
    assert not positions.state_dict()


def test_sinusoidal_keeps_the_precision_of_its_input() -> None:
    hidden = torch.zeros(1, 3, 4, dtype=torch.bfloat16)
    assert SinusoidalPositions(8, 4)(hidden).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", [LearnedPositions, SinusoidalPositions])
def test_rows_from_the_offset_are_added(kind: type[LearnedPositions | SinusoidalPositions], seed: int) -> None:
    positions = kind(9, 4)
    with torch.no_grad():
        positions.table.normal_()
    hidden = torch.randn(2, 5, 4)
    for offset in (0, 1, 4):
        added = positions(hidden, offset)
        for place in range(5):
            assert torch.equal(added[:, place], hidden[:, place] + positions.table[offset + place])
    assert torch.equal(positions(hidden), positions(hidden, 0))


def test_learned_table_is_one_parameter() -> None:
    assert {name: tuple(value.shape) for name, value in LearnedPositions(9, 4).named_parameters()} == {"table": (9, 4)}
