"""Windows that stay inside one document, as stateless as those of `megachar.data.sampler` and without an index.

A document of L tokens holds windows of W = context + targets tokens if L >= W. It is read in proportion to its length:
a position of the text is chosen as for windows that ignore documents, the dataset's own index tells by bisection which
document lies there, and the window is placed inside that document. No window crosses the end of a document, so nothing
has to be masked in the loss; the price is that documents shorter than a window are left out. A position in one of them
is drawn again.
"""

from typing import Literal

import numpy as np

from megachar.base.errors import DataError
from megachar.data.batches import evenly_spaced_starts
from megachar.data.indexed_dataset import IndexedDataset
from megachar.data.sampler import Int64, UInt64, check_seed_and_order, epoch_positions, make_key, random_positions

# Positions drawn again cost time: with this share of long documents, 100 draws a window on average.
MIN_SHARE_OF_LONG_DOCUMENTS = 0.01
_NOWHERE = -1


class DocumentSampler:
    """Where windows start, by their number, when none may cross a document's end.

    order "random": a document in proportion to its length, and in it any start, uniformly.
    order "epoch": every document is cut from its own first token into cells of `context` tokens. An epoch reads each
    whole cell once, in its own random order, and what remains at the end of a document of r tokens with probability
    r / context, in a window moved back to end with the document. Positions in documents that are too short are
    replaced by windows of order "random", so all epochs have the same number of windows.
    """

    def __init__(
        self, dataset: IndexedDataset, window_tokens: int, context: int, seed: int, order: Literal["random", "epoch"]
    ) -> None:
        """Reads the dataset's index once, to check it and to count what is left out.

        DataError where the index is damaged or less than 1 % of the tokens are in documents of `window_tokens` or
        more; ConfigError for an unknown order or a seed outside [0, 2^64).
        """
        assert 1 <= context < window_tokens, (context, window_tokens)
        check_seed_and_order(seed, order)
        dataset.check_index()
        self._dataset, self._window_tokens, self.context = dataset, window_tokens, context
        self.seed, self.order = seed, order
        self.num_tokens = dataset.num_tokens
        self.left_out = dataset.tokens_in_documents_below(window_tokens)
        """Tokens in documents shorter than a window, which no window reads."""
        if self.num_tokens - self.left_out < MIN_SHARE_OF_LONG_DOCUMENTS * self.num_tokens:
            raise DataError(
                f"{self.left_out:,} of the {self.num_tokens:,} characters in {dataset.prefix} are in documents shorter "
                f"than a window of {window_tokens:,} (context plus targets), and would be left out: use a shorter "
                "context, or data.windows=stream"
            )
        self.windows_per_epoch = -(-self.num_tokens // context)
        """Windows in an epoch of order "epoch"."""

    def window_starts(self, windows: UInt64) -> Int64:
        """Where the windows with these numbers (b,) start in the text: (b,)."""
        if self.order == "random":
            starts = self._spread(self._draw(windows, attempt=0))
        else:
            starts = self._first_of_cell(
                epoch_positions(self.seed, windows, self.windows_per_epoch, self.context, self.context)
            )
        return self._draw_again(starts, windows)

    def evenly_spaced_starts(self, count: int) -> Int64:
        """Starts (count,) of windows spread evenly over the text, where possible; the same for every order."""
        positions = evenly_spaced_starts(self.num_tokens, 1, count)
        return self._draw_again(self._spread(positions), np.arange(count, dtype=np.uint64))

    def _draw_again(self, starts: Int64, windows: UInt64) -> Int64:
        """Replace each start that is nowhere, until all are in documents; the draws depend on the window alone."""
        attempt = 0
        while (lost := np.flatnonzero(starts == _NOWHERE)).size:
            attempt += 1
            starts[lost] = self._spread(self._draw(windows[lost], attempt))
        return starts

    def _draw(self, windows: UInt64, attempt: int) -> Int64:
        return random_positions(make_key(self.seed, attempt, 2), windows, self.num_tokens)

    def _spread(self, positions: Int64) -> Int64:
        """Map the L positions of each document evenly, and in order, to its L - W + 1 starts."""
        first, stop = self._dataset.document_bounds(positions)
        length = stop - first
        # first + floor(place x (L - W + 1) / L), written so that no product is larger than L x W.
        starts = positions + (first - positions) * (self._window_tokens - 1) // length
        return np.where(length >= self._window_tokens, starts, _NOWHERE)

    def _first_of_cell(self, positions: Int64) -> Int64:
        """The start of the cell that holds each position, moved back where the window would leave the document."""
        inside = positions < self.num_tokens  # the last cut of an epoch may be past the end
        first, stop = self._dataset.document_bounds(np.where(inside, positions, 0))
        starts = np.minimum(positions - (positions - first) % self.context, stop - self._window_tokens)
        return np.where(inside & (stop - first >= self._window_tokens), starts, _NOWHERE)
