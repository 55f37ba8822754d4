"""The points of Hoffmann et al. (2022) that Besiroglu et al. (2024) read off their figure; they are not committed."""

import csv
from pathlib import Path

import pytest

from megachar.scaling.points import OPERATIONS, Points, Run

FILE = Path(__file__).parents[3] / "shared" / "data" / "chinchilla-points.csv"
HIGHEST = 5
"""Losses that are left out, as outliers."""
KNOWN = {"A": 477.83, "B": 2143.4, "E": 1.81722, "alpha": 0.34731, "beta": 0.36717}
OBJECTIVE = 1.018274018e-3
"""What Besiroglu et al. found, as checked again: the parameters, and the sum over runs of Huber's loss."""
needed = pytest.mark.skipif(not FILE.is_file(), reason=f"{FILE} is not there")


def chinchilla() -> Points:
    """The 240 points; N in parameters, D in tokens, loss in nats per token."""
    with FILE.open(encoding="utf-8") as file:
        rows = [
            (float(row["Model Size"]), float(row["Training FLOP"]), float(row["loss"])) for row in csv.DictReader(file)
        ]
    rows.sort(key=lambda row: row[2])
    return Points(tuple(Run(N=n, D=c / OPERATIONS / n, loss=loss, C=c) for n, c, loss in rows[:-HIGHEST]))
