"""Threads of a process that predicts: few for small products, what is asked for before all."""

import pytest
import torch
from torch import nn

from megachar.parallel.threads import fitting_threads, use_threads


@pytest.mark.parametrize(
    ("width", "rows", "threads"), [(192, 1, 1), (512, 1, 1), (1900, 1, 1), (192, 4096, 16), (64, 32, 1)]
)
def test_small_products_get_one_thread(width: int, rows: int, threads: int) -> None:
    """Generation with anything but the largest models does; whole windows take all 16 cores."""
    assert fitting_threads(nn.Linear(width, 4 * width, device="meta"), rows, 16) == threads


def test_what_is_asked_for_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    model = nn.Linear(8, 8)
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "5")
        use_threads(3, model, rows=1)
        assert torch.get_num_threads() == 3
        use_threads(None, model, rows=1)
        assert torch.get_num_threads() == 3
        monkeypatch.delenv("OMP_NUM_THREADS")
        use_threads(None, model, rows=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
