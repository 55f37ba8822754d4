"""The table of runs: what a CSV may hold, what is refused and why, what is written and read again."""

import io
from pathlib import Path

import numpy as np
import pytest

from megachar.base.errors import DataError
from megachar.scaling.points import Points, Run, best_settings, group_names, read_points, write_points


def read(folder: Path, text: str | bytes) -> Points:
    path = folder / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_points(path)


def test_three_columns_are_enough(tmp_path: Path) -> None:
    points = read(tmp_path, "\ufeffN, loss ,D\n1e5,2.5,4000000\n\n20000,3,1e6\n")
    assert points.runs == (Run(N=1e5, D=4e6, loss=2.5), Run(N=2e4, D=1e6, loss=3))
    assert points.column("compute").tolist() == [6 * 1e5 * 4e6, 6 * 2e4 * 1e6]
    assert np.isnan(points.column("rate")).all()
    assert points.log_losses.tolist() == pytest.approx([np.log(2.5), np.log(3)])


def test_every_column_comes_back(tmp_path: Path) -> None:
    whole = Run(N=1e5 / 3, D=4e6, loss=2.1, C=9e11, name="a, b", trunk="t", seed=7, held_out=True, depth=3, width=64,
                rate=0.001, batch=1024, unique=2e6)  # fmt: skip
    written = io.StringIO()
    write_points(Points((whole, Run(N=2e4, D=1e6, loss=3))), written)
    assert read(tmp_path, written.getvalue()).runs == (whole, Run(N=2e4, D=1e6, loss=3))
    written = io.StringIO()
    write_points(Points((Run(N=2e4, D=1e6, loss=3),)), written)
    assert written.getvalue() == "N,D,loss\n20000.0,1000000.0,3.0\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("N,D\n1,2\n", "no column loss"),
        ("N,D,loss,N\n1,2,3,4\n", "column 'N' is there twice"),
        ("N,D,loss,heldout\n1,2,3,1\n", "unknown column 'heldout'; leave it out, or take one of N, D, loss, C"),
        ("N,D,loss\n", "has 0 runs"),
        ("N,D,loss\n1,2\n", "line 2: 2 cells, but 3 columns"),
        ("N,D,loss\n1,2,\n", "line 2: loss: Field required"),
        ("N,D,loss\n10,2,3\n10,x,3\n", "line 3: D = x: Input should be a valid number"),
        ("N,D,loss\n10,nan,3\n", "line 2: D = nan: Input should be a finite number"),
        ("N,D,loss\n10,1e400,3\n", "line 2: D = 1e400: Input should be a finite number"),
        ("N,D,loss\n-1,2,3\n", "line 2: N = -1: Input should be greater than or equal to 1"),
        ("N,D,loss\n1,2,0\n", "line 2: loss = 0: Input should be greater than or equal to 0.0"),
        ("N,D,loss,held_out\n1,2,3,maybe\n", "held_out = maybe"),
        ('N,D,loss\n1,2,"3\n', "is no CSV"),
        (b"N,D,loss\n1,2,\xff\n", "is no text in UTF-8"),
    ],
)
def test_what_is_wrong_is_named(text: str | bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        read(tmp_path, text)
    assert reason in str(refused.value)
    assert "table.csv" in str(refused.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(DataError):
            read_points(path)


def test_only_the_best_rate_and_batch_is_kept() -> None:
    """Runs that differ in size, length, seed, or being held out are others; without a rate, none is left out."""
    tried = ((1e5, 1e-3, 1, 2.5), (1e5, 2e-3, 1, 2.4), (1e5, 4e-3, 1, 2.6), (1e5, 1e-3, 2, 2.7), (2e5, 1e-3, 1, 2.2))
    runs = tuple(Run(N=n, D=1e6, loss=loss, rate=rate, seed=seed) for n, rate, seed, loss in tried)
    untuned = (Run(N=1e5, D=1e6, loss=3), Run(N=1e5, D=1e6, loss=4))
    assert [run.loss for run in best_settings(Points(runs + untuned)).runs] == [2.4, 2.7, 2.2, 3, 4]
    held_out = Run(N=1e5, D=1e6, loss=2.0, rate=2e-3, seed=1, held_out=True)
    assert len(best_settings(Points((*runs, held_out)))) == 4


def test_runs_share_luck_by_trunk_and_seed() -> None:
    same = {"D": 1e6, "loss": 3.0}
    trunks = [Run(N=1e5, D=d, loss=3, trunk="a", seed=seed) for d, seed in ((1e6, 1), (2e6, 1), (2e6, 2))]
    names = group_names([*trunks, Run(N=1e5, **same, seed=2), Run(N=2e5, **same)])
    assert names[0] == names[1]
    assert len(set(names)) == 4
