"""From window starts to batches. Shapes: b micro-batch, t characters (the context), n number of targets."""

from typing import Any

import numpy as np
import numpy.typing as npt

from megachar.data.sampler import check_holds_window

Int64 = npt.NDArray[np.int64]


def read_windows(tokens: npt.NDArray[Any], starts: Int64, context: int, num_targets: int) -> tuple[Int64, Int64]:
    """Read inputs (b, t) and targets (b, t, n), both int64 and freshly allocated, for windows at `starts` (b,).

    inputs[b, t] = tokens[start + t] and targets[b, t, j] = tokens[start + t + 1 + j], so target j of a position is the
    token j + 1 places ahead. Every window needs context + num_targets tokens from its start.
    """
    return inputs_and_targets(gather_windows(tokens, starts, context + num_targets), num_targets)


def gather_windows(tokens: npt.NDArray[Any], starts: Int64, window_tokens: int) -> Int64:
    """The `window_tokens` tokens from each of `starts` (b,): (b, window_tokens), int64."""
    assert starts.ndim == 1, starts.shape
    # A negative start would wrap round to the end of the text without a word.
    assert starts.min(initial=0) >= 0, "a window starts before the text"
    assert starts.max(initial=0) + window_tokens <= tokens.size, "a window runs past the end of the text"
    # A plain array over the same memory map: indexing through the memmap subclass is slower.
    return np.asarray(tokens)[starts[:, None] + np.arange(window_tokens)].astype(np.int64)


def inputs_and_targets(windows: Int64, num_targets: int) -> tuple[Int64, Int64]:
    """Cut windows (b, t + n) into inputs (b, t) and targets (b, t, n), both freshly allocated."""
    context = windows.shape[1] - num_targets
    ahead = np.lib.stride_tricks.sliding_window_view(windows[:, 1:], num_targets, axis=1)  # (b, t, n)
    return windows[:, :context].copy(), ahead.copy()


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
