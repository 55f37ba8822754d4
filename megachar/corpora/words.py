"""Counting words in pieces of text that may be counted apart and joined."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass
class WordCounter:
    """Counts words in chunks of text: whitespace-separated tokens plus line ends, whatever the cuts between the chunks.

    Whitespace is that of `bytes.split`: space, tab, newline, carriage return, vertical tab, form feed; a line end is a
    newline. The sum is what Mikolov's counts of Penn Treebank and WikiText use, where each line end is a token <eos>.
    A word never spans two documents. Counters of consecutive pieces are joined by `join`.
    """

    num_words: int = 0
    starts_inside: bool = False
    """The text begins with a token, which may be the rest of one before."""
    ends_inside: bool = False
    """The text ends inside a token that may go on."""
    empty: bool = True
    """No text was counted yet."""

    def update(self, text: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64] | None = None) -> None:
        """Count the next bytes (any number,) of the text, in which documents end at `ends` (documents,)."""
        if not text.size:
            return
        counted = count_words(text)
        if ends is not None and ends.size:
            # Two documents side by side may look like one word.
            inner = ends[(ends > 0) & (ends < text.size)]
            inner = inner[np.append(True, inner[1:] != inner[:-1])] if inner.size else inner
            counted += int(np.count_nonzero(~_is_space(text[inner - 1]) & ~_is_space(text[inner])))
            if ends[0] == 0:
                self.end_document()
        closed = ends is not None and bool(ends.size) and int(ends[-1]) == text.size
        first, last = (not bool(_is_space(text[place : place + 1])[0]) for place in (0, text.size - 1))
        self.join(WordCounter(counted, first, last and not closed, False))

    def join(self, after: "WordCounter") -> None:
        """Add the count of the text that follows."""
        if after.empty:
            return
        self.num_words += after.num_words - (self.ends_inside and after.starts_inside)
        if self.empty:
            self.starts_inside, self.empty = after.starts_inside, False
        self.ends_inside = after.ends_inside

    def end_document(self) -> None:
        """End a word with the document it is in."""
        self.ends_inside = False


# Small enough that a block and its masks stay in the processor's cache, large enough that the calls do not count.
_BLOCK_BYTES = 1 << 17


def count_words(text: npt.NDArray[np.uint8]) -> int:
    """Words of `text` (any number,), taken by itself."""
    total, before_is_space = 0, True
    space_buffer, other_buffer = np.empty((2, _BLOCK_BYTES), dtype=np.bool_)
    bytes_buffer = np.empty(_BLOCK_BYTES, dtype=np.uint8)
    for first in range(0, text.size, _BLOCK_BYTES):
        block = text[first : first + _BLOCK_BYTES]
        space, other, shifted = space_buffer[: block.size], other_buffer[: block.size], bytes_buffer[: block.size]
        np.equal(block, 10, out=other)
        total += int(np.count_nonzero(other))
        # 9 to 13 are the other whitespace bytes; smaller ones wrap round to large numbers.
        np.less(np.subtract(block, np.uint8(9), out=shifted), 5, out=other)
        np.logical_or(np.equal(block, 32, out=space), other, out=space)
        # Changes are starts and ends by turns; what comes before the block and after it tells which are more.
        changes = int(np.count_nonzero(np.logical_xor(space[:-1], space[1:], out=other[:-1])))
        first_is_space, last_is_space = bool(space[0]), bool(space[-1])
        total += (changes + first_is_space - last_is_space) // 2 + (before_is_space and not first_is_space)
        before_is_space = last_is_space
    return total


def _is_space(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    return (values == 32) | (values - np.uint8(9) < 5)
