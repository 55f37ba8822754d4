"""Means after a surprise and their intervals equal plain loops, and neighboring surprises widen the intervals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megachar.analysis.result import Subject, read_analysis
from megachar.analysis.surprise import (
    Interval,
    SurpriseSettings,
    analyze_surprise,
    compare_surprises,
    surprising,
)
from megachar.base.errors import ConfigError
from tests.runs.test_plots import check_picture

SMALL = SurpriseSettings(block=20, resamples=300)


def random_nats(rng: np.random.Generator, size: int = 1001) -> list[Any]:
    shared = rng.exponential(size=size)
    return [shared + rng.exponential(size=size) for _ in range(2)]


def test_means_against_plain_loops(rng: np.random.Generator) -> None:
    first, second = random_nats(rng)
    size = first.size
    average = {i: (first[i] + second[i]) / 2 for i in range(1, size)}
    hardest = sorted(average, key=lambda i: -average[i])[: (size - 1) // 10]
    found = compare_surprises(first, second, SMALL)
    assert [c.offset for c in found] == [None, 0, 1, 2, 3, 4]
    for comparison in found[1:]:
        places = [i + comparison.offset for i in hardest if i + comparison.offset < size]
        assert comparison.num_characters == len(places)
        for interval, nats in ((comparison.first, first), (comparison.second, second)):
            assert interval.mean == pytest.approx(sum(nats[i] for i in places) / len(places) / np.log(2))
        assert comparison.difference.mean == pytest.approx(comparison.first.mean - comparison.second.mean)
    assert found[0].num_characters == size - 1
    assert found[0].first.mean == pytest.approx(first[1:].mean() / np.log(2))


def test_intervals_against_texts_laid_out(rng: np.random.Generator) -> None:
    """Blocks drawn and joined one text after another, with the surprises that they had in their places."""
    first, second = random_nats(rng)
    found = compare_surprises(first, second, SMALL)
    bits = np.stack([first, second])[:, 1:] / np.log(2)
    hardest = set(np.argsort(-bits.sum(0))[: bits.shape[1] // 10].tolist())
    num_blocks = bits.shape[1] // SMALL.block
    generator = np.random.default_rng(SMALL.seed)
    means: dict[int, list[Any]] = {0: [], 3: []}
    for _ in range(SMALL.resamples):
        times = generator.multinomial(num_blocks, [1 / num_blocks] * num_blocks)
        text = [
            i for block in range(num_blocks) for i in range(block * 20, block * 20 + 20) for _ in range(times[block])
        ]
        for offset, values in means.items():
            places = [i + offset for i in text if i in hardest and i + offset < bits.shape[1]]
            values.append(bits[:, places].mean(1))
    for offset, values in means.items():
        drawn = np.array(values)
        comparison = found[1 + offset]
        for interval, of_model in (
            (comparison.first, drawn[:, 0]),
            (comparison.second, drawn[:, 1]),
            (comparison.difference, drawn[:, 0] - drawn[:, 1]),
        ):
            assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(of_model, [0.025, 0.975])))


def test_neighbours_that_go_together_widen_the_interval(rng: np.random.Generator) -> None:
    """Losses that are the same throughout a block are one observation each, not twenty."""
    levels = rng.normal(5.0, 1.0, size=200)
    nats = np.concatenate([[0.0], np.repeat(levels, 20)]) * np.log(2)
    together = compare_surprises(nats, nats, SurpriseSettings(block=20, resamples=4000))[0]
    expected = 2 * 1.96 * levels.std() / np.sqrt(200)
    assert together.first.high - together.first.low == pytest.approx(expected, rel=0.15)
    assert together.difference == Interval(0.0, 0.0, 0.0)


def test_the_seed_decides(rng: np.random.Generator) -> None:
    first, second = random_nats(rng)
    again = [compare_surprises(first, second, SurpriseSettings(block=20, resamples=300, seed=s)) for s in (1, 1, 2)]
    assert again[0] == again[1]
    assert again[0][1].first.low != again[2][1].first.low
    assert again[0][1].first.mean == again[2][1].first.mean


def test_of_equal_losses_the_first_surprise() -> None:
    assert surprising(np.array([1.0, 3.0, 2.0, 3.0, 3.0]), 0.4).tolist() == [1, 3]
    assert surprising(np.ones(5000), 0.1).tolist() == list(range(500))
    assert surprising(np.arange(5.0), 0.01).tolist() == [4]


def test_analysis(rng: np.random.Generator, tmp_path: Path) -> None:
    subjects = [Subject("mlstm", "/runs/mlstm", 5), Subject("lstm", "/runs/lstm", 7)]
    saved = analyze_surprise(subjects, random_nats(rng), SMALL, "valid", {"corpus": "abcd"}).save(tmp_path)
    assert read_analysis(saved.json) == saved
    check_picture(saved.figure)
    assert [row[0] for row in saved.table.texts()] == ["all", "0", "1", "2", "3", "4"]
    lines = [line.split(",") for line in saved.csv.read_text().splitlines()]
    assert lines[0][:3] == ["characters_after_surprise", "num_characters", "mlstm_mean_bits"]
    assert [line[0] for line in lines[1:]] == ["all", "0", "1", "2", "3", "4"]
    assert saved.settings["corpus"] == "abcd"
    assert saved.settings["block"] == 20


@pytest.mark.parametrize(("settings", "message"), [
    ({"share": 1.0}, r"share = 1\.0 of the characters cannot be compared with all; set 0\.1"),
    ({"share": 0.0}, r"share = 0\.0"),
    ({"reach": 0}, r"reach = 0: nothing after a surprise would be looked at; set 4"),
    ({"block": 4}, r"block = 4 characters is not longer than what a surprise reaches \(4\); set some hundred"),
    ({"resamples": 99}, r"resamples = 99 are too few for an interval; set 100 or more"),
    ({"confidence": 1.0}, r"confidence = 1\.0 is no share between 0 and 1; set 0\.95"),
    ({"seed": -1}, r"seed = -1 is below 0"),
    ({"block": 101}, r"1,000 characters has 9 blocks of 101, too few .* give 1,010 characters .* of 100 or fewer"),
])  # fmt: skip
def test_settings_that_cannot_be(rng: np.random.Generator, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compare_surprises(*random_nats(rng), SurpriseSettings(**settings))
