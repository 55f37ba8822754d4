"""Losses by length of context are taken over the same characters for every length, state carried or not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megachar.analysis.context import UNBOUNDED, analyze_context, check_lengths, losses_by_context
from megachar.analysis.result import Subject, read_analysis
from megachar.base.errors import ConfigError, DataError
from tests.analysis.toys import Fading
from tests.runs.test_plots import check_picture

TEXT = np.zeros(101, dtype=np.uint8)


def test_the_same_characters_count_for_every_length() -> None:
    """Only those after the longest context, of which 100 nats at place 20 are none."""
    heard: list[int] = []
    found = losses_by_context(Fading(64, place=20), TEXT, [4, 32], heard.append)
    assert found == pytest.approx({4: (1 + 1 / 4) / np.log(2), 32: (1 + 1 / 32) / np.log(2)})
    assert heard == [100, 100]
    late = losses_by_context(Fading(64, place=40), TEXT, [4, 32])
    assert late[4] == pytest.approx((1 + 1 / 4 + 100 / 69) / np.log(2))


def test_state_without_bound() -> None:
    found = losses_by_context(Fading(None, place=0), TEXT, [4])
    assert list(found) == [4, UNBOUNDED]
    assert found[UNBOUNDED] == pytest.approx(np.mean([1 + 1 / i for i in range(4, 101)]) / np.log(2))


def test_analysis(tmp_path: Path) -> None:
    subjects = [Subject("t64", "/runs/t64", 5), Subject("mlstm", "/runs/mlstm", 7)]
    losses: list[dict[int | None, float]] = [{128: 1.5, 32: 1.75}, {128: 1.625, 32: 1.875, None: 1.5}]
    saved = analyze_context(subjects, losses, "test", 1000, {"lengths": [128, 32]}).save(tmp_path)
    assert read_analysis(saved.json) == saved
    check_picture(saved.figure)
    assert saved.table.rows == ((32, 1.75, 1.875), (128, 1.5, 1.625), ("all before", None, 1.5))
    assert saved.csv.read_text().splitlines()[1:] == ["32,1.75,1.875", "128,1.5,1.625", "all before,,1.5"]


@pytest.mark.parametrize(("lengths", "error", "message"), [
    ([32, 128], ConfigError, r"context of 128 .* the transformer small can use, which is 64; set --lengths 32,64$"),
    ([64, 65], ConfigError, r"which is 64; set --lengths 64$"),
    ([], ConfigError, r"lengths = nothing: give different numbers"),
    ([0, 32], ConfigError, r"lengths = 0,32: give different numbers of characters from 1"),
    ([32, 32], ConfigError, r"lengths = 32,32: give different numbers"),
    ([8, 60], DataError, r"the text has 50 characters, none of them with 60 before it; give a longer text"),
])  # fmt: skip
def test_lengths_that_cannot_be(lengths: list[int], error: type[Exception], message: str) -> None:
    contexts: dict[str, Any] = {"mlstm": None, "small": 64}
    with pytest.raises(error, match=message):
        check_lengths(lengths, 50, contexts)
    check_lengths([32, 49], 50, contexts)
