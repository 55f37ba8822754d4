"""Saved on one layout, resumed on another: the same state, and the run that never moved; `matrix.py` prints all."""

from collections.abc import Callable
from pathlib import Path

from tests.parallel.matrix import Layout, allowed, run_matrix
from tests.parallel.pool import RankPool

P1, P2 = Layout(), Layout(pipe=2)
T2, P2T2 = Layout(tensor=2), Layout(pipe=2, tensor=2)
D2Z1, D2Z3, D4Z2 = Layout(data=2, zero=1), Layout(data=2, zero=3), Layout(data=4, zero=2)
T2D2Z3 = Layout(tensor=2, data=2, zero=3)
PAIRS = [
    (P1, P2), (P2T2, T2),  # the pipe size alone
    (P1, T2), (T2, P1),  # the tensor size
    (D2Z1, D2Z3), (D2Z3, P2),  # ZeRO 1 <-> 3, and none
    (D2Z1, D4Z2), (P2, D2Z1),  # the data size
    (P2T2, D2Z3), (D4Z2, T2D2Z3),  # everything
]  # fmt: skip
P1F16 = Layout(zero=1, precision="fp16")
P2F16, D2B16 = Layout(pipe=2, zero=1, precision="fp16"), Layout(data=2, zero=3, precision="bf16")
D2Z2B16 = Layout(data=2, zero=2, precision="bf16")
D2Z2F16, D2Z3F16 = Layout(data=2, zero=2, precision="fp16"), Layout(data=2, zero=3, precision="fp16")
PRECISIONS = [
    (P1, P1F16), (P1F16, P1), (P1F16, P2F16),  # the precision alone, and the pipe size alone
    (P2F16, D2B16), (D2B16, P2F16),  # both
    (D2Z2F16, D2Z3F16), (D2Z3F16, D2Z2F16),  # ZeRO alone
    (D2Z2B16, D2Z2F16),  # the precision alone, under ZeRO
]  # fmt: skip


def test_moved_runs_are_the_runs_that_never_moved(ranks: Callable[[int], RankPool], tmp_path: Path) -> None:
    cells = run_matrix([P1, P2, T2, D2Z1, D2Z3, P2T2, D4Z2, T2D2Z3], PAIRS, tmp_path, "adamw", ranks)
    assert len(cells) == len(PAIRS)
    for (saved, resumed), (moved, after) in cells.items():
        assert moved == 0, f"{saved} -> {resumed}"
        assert after <= allowed(saved, resumed), f"{saved} -> {resumed}"
    assert cells[P1, P2][1] == cells[P2T2, T2][1] == 0
    assert cells[T2, P1][1] > 0, "another order of summation shows, so the comparison sees something"


def test_a_run_moves_to_another_precision(ranks: Callable[[int], RankPool], tmp_path: Path) -> None:
    layouts = [P1, P1F16, P2F16, D2B16, D2Z2B16, D2Z2F16, D2Z3F16]
    cells = run_matrix(layouts, PRECISIONS, tmp_path, "sgd", ranks)
    assert len(cells) == len(PRECISIONS)
    for (saved, resumed), (moved, after) in cells.items():
        assert moved == 0, f"{saved} -> {resumed}"
        assert after <= allowed(saved, resumed), f"{saved} -> {resumed}"
    assert cells[P1F16, P2F16][1] == 0
