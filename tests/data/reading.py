"""Batches of one text, as tests ask for them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from megachar.data.batches import Int64, gather_windows, inputs_and_targets


def read_windows(tokens: npt.NDArray[Any], starts: Int64, context: int, num_targets: int) -> tuple[Int64, Int64]:
    """Inputs (b, t) and targets (b, t, n) of the windows at `starts` (b,)."""
    windows = gather_windows([np.asarray(tokens)], np.zeros_like(starts), starts, context + num_targets)
    return inputs_and_targets(windows, context)
