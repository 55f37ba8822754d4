"""Tables that are odd, extreme or damaged are refused in a sentence, or fitted: no traceback, no warning of NumPy's."""

import random
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megachar.base.errors import MegacharError
from megachar.base.files import json_text
from megachar.scaling.output import as_dict
from megachar.scaling.pictures import draw_study
from megachar.scaling.points import COLUMNS, Points, read_points, write_points
from megachar.scaling.study import Options, study
from tests.draws import fresh_random
from tests.scaling.ladders import make_ladder

MUTATIONS = 4
"""More are tried by hand: set it to 500."""
CELLS = ("0", "-1", "1", "1e30", "1e-300", "1e400", "nan", "inf", "", "true", "é", '"', "1e4", "2.5", "9" * 400, "\x00")


def table(folder: Path) -> list[list[str]]:
    """The cells of a sound table in which every column has a value, its names first."""
    rng = np.random.default_rng(0)
    runs = [run.model_copy(update={"C": 6.1 * run.N * run.D, "name": "x", "trunk": f"{run.N:g}", "seed": number % 2,
                                   "held_out": number == 19, "depth": 2.0 + number % 3,
                                   "width": 16.0 * (1 + number % 4), "rate": 1e-3 * (1 + number % 2),
                                   "batch": 1024.0, "unique": 2e6})
            for number, run in enumerate(make_ladder(rng, 0.005).runs)]  # fmt: skip
    path = folder / "table.csv"
    with path.open("w", encoding="utf-8") as file:
        write_points(Points(tuple(runs)), file)
    cells = [line.split(",") for line in path.read_text().splitlines()]
    assert cells[0] == list(COLUMNS)
    return cells


def change_cell(draw: random.Random, rows: list[list[str]]) -> bytes:
    draw.choice(rows)[draw.randrange(len(COLUMNS))] = draw.choice(CELLS)
    return joined(rows)


def change_column(draw: random.Random, rows: list[list[str]]) -> bytes:
    place, cell = draw.randrange(len(COLUMNS)), draw.choice(CELLS)
    for row in rows[1:]:
        row[place] = cell
    return joined(rows)


def scale_column(draw: random.Random, rows: list[list[str]]) -> bytes:
    """Of another size, or to some power, which may turn the law around."""
    place, factor, power = draw.randrange(3), 10.0 ** draw.randint(-6, 20), draw.choice((-1.0, 0.01, 1.0, 3.0))
    for row in rows[1:]:
        row[place] = repr(factor * float(row[place]) ** power)
    return joined(rows)


def leave_out(draw: random.Random, rows: list[list[str]]) -> bytes:
    return joined([rows[0], *draw.sample(rows[1:], draw.randrange(20))])


def shuffle_losses(draw: random.Random, rows: list[list[str]]) -> bytes:
    losses = [row[2] for row in rows[1:]]
    draw.shuffle(losses)
    for row, loss in zip(rows[1:], losses, strict=True):
        row[2] = loss
    return joined(rows)


def damage_bytes(draw: random.Random, rows: list[list[str]]) -> bytes:
    data = bytearray(joined(rows))
    for _ in range(draw.randint(1, 4)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data[: draw.randint(0, len(data))])


def joined(rows: list[list[str]]) -> bytes:
    return "".join(",".join(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize("change", [change_cell, change_column, scale_column, leave_out, shuffle_losses, damage_bytes])
def test_a_damaged_table_is_refused_or_fitted(
    change: Callable[[random.Random, list[list[str]]], bytes], tmp_path: Path
) -> None:
    draw = fresh_random()
    path = tmp_path / "damaged.csv"
    for number in range(MUTATIONS):
        path.write_bytes(change(draw, table(tmp_path)))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                found = study(read_points(path), Options(starts=1, resamples=2))
                json_text(as_dict(found))
            except MegacharError as error:
                print(error)
                continue
            if number < 2:
                draw_study(found)
