"""From window starts to batches. Shapes: b micro-batch, t characters (the context), n number of targets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from megachar.data.sampler import check_holds_window

Int64 = npt.NDArray[np.int64]


def gather_windows(texts: Sequence[npt.NDArray[Any]], which: Int64, starts: Int64, window_tokens: int) -> Int64:
    """The `window_tokens` tokens of texts[which] from each start; both (b,), what is read int64 (b, window_tokens)."""
    assert starts.ndim == 1, starts.shape
    windows = np.empty((starts.size, window_tokens), dtype=np.int64)  # (b, t + n)
    for row, (text, start) in enumerate(zip(which.tolist(), starts.tolist(), strict=True)):
        # A negative start would wrap round to the end of the text without a word.
        assert start >= 0, "a window starts before the text"
        assert start + window_tokens <= texts[text].size, "a window runs past the end of the text"
        windows[row] = texts[text][start : start + window_tokens]
    return windows


def inputs_and_targets(windows: Int64, context: int) -> tuple[Int64, Int64]:
    """Cut windows (b, t + n) into inputs (b, t) and targets (b, t, n), both freshly allocated, for a context t.

    Target j of a position is the token j + 1 places ahead of it.
    """
    targets = np.empty((windows.shape[0], context, windows.shape[1] - context), dtype=np.int64)  # (b, t, n)
    for ahead in range(targets.shape[2]):
        targets[:, :, ahead] = windows[:, 1 + ahead : 1 + ahead + context]
    return windows[:, :context].copy(), targets


def evenly_spaced_starts(num_tokens: int, window_tokens: int, count: int) -> Int64:
    """Starts (count,) of windows spread evenly from the first to the last token of a split.

    They do not overlap where the split holds count x window_tokens tokens; in a shorter one they overlap, and at worst
    repeat. DataError where the split is shorter than one window.
    """
    assert count >= 1, count
    check_holds_window(num_tokens, window_tokens)
    if count == 1:
        return np.zeros(1, dtype=np.int64)
    # i * room // gaps, with the quotient apart so that the product stays small.
    gap, rest = divmod(num_tokens - window_tokens, count - 1)
    places = np.arange(count, dtype=np.int64)
    return places * gap + places * rest // (count - 1)
