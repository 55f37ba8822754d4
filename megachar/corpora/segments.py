"""Reading segments of a text block by block, cut only where it changes nothing.

A segment's nominal ends are bytes counted beforehand; its true ends are the next legal cuts from there, so that two
neighbors, read by two workers, leave nothing out and take nothing twice. Memory is that of some blocks, or of the
longest record where a record must stay whole.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from megachar.base.errors import DataError
from megachar.corpora.inputs import open_measured
from megachar.corpora.plan import Segment, Unit
from megachar.data.vocabulary import Cut

NOWHERE = -1
# A word that does not end within so many bytes is cut between characters.
_LONGEST_WORD = 1 << 16


@dataclass(frozen=True)
class CutRule:
    """Where a text may be cut. Places are indices of the byte after the cut; the byte before must be in the buffer."""

    first: Callable[[bytes, int], int]
    """(buffer, at) -> the first legal place >= at, or NOWHERE in this buffer."""
    last: Callable[[bytes], int]
    """(buffer) -> the last legal place, or NOWHERE after its first byte."""
    unbounded: bool = False
    """The next legal place may be any number of bytes away: a search must not keep all it has seen."""


@dataclass(frozen=True)
class Block:
    """Consecutive bytes of a segment."""

    segment: int
    """Number of the segment in its unit."""
    position: int
    """Of the first byte, in the unpacked text."""
    text: bytes
    num_done: int
    """Of the bytes that the work is counted in (`inputs.work_bytes`), since the last block."""


def rule_of(cut: Cut) -> CutRule:
    """The rule of a vocabulary."""
    return {
        Cut.ANYWHERE: CutRule(lambda buffer, at: at if at <= len(buffer) else NOWHERE, len),
        Cut.CHARACTERS: CutRule(_first_character, _last_character),
        Cut.WORDS: CutRule(_first_word, _last_word),
    }[cut]


def _first_line(buffer: bytes, at: int) -> int:
    return buffer.find(b"\n", at - 1) + 1 or NOWHERE


def _last_line(buffer: bytes) -> int:
    return buffer.rfind(b"\n") + 1 or NOWHERE


LINES = CutRule(_first_line, _last_line, unbounded=True)


def _first_character(buffer: bytes, at: int) -> int:
    for place in range(at, min(at + 4, len(buffer))):
        if buffer[place] & 0xC0 != 0x80:
            return place
    return at if at + 4 <= len(buffer) else NOWHERE  # four bytes without a start: no UTF-8, the encoder will say where


def _last_character(buffer: bytes) -> int:
    for back in range(1, min(4, len(buffer)) + 1):
        byte = buffer[-back]
        if byte & 0xC0 != 0x80:
            width = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            place = len(buffer) - back * (back < width)
            return place or NOWHERE
    return len(buffer)


def _first_word(buffer: bytes, at: int) -> int:
    end = at + _LONGEST_WORD
    places = [place for place in (buffer.find(b"\n", at - 1, end - 1) + 1, buffer.find(b" ", at, end)) if place > 0]
    if places:
        return min(places)
    return _first_character(buffer, end) if len(buffer) >= end + 4 else NOWHERE


def _last_word(buffer: bytes) -> int:
    place = max(buffer.rfind(b"\n") + 1, buffer.rfind(b" "))
    if place > 0:
        return place
    return _last_character(buffer) if len(buffer) > _LONGEST_WORD else NOWHERE


def read_blocks(unit: Unit, outer: CutRule, inner: CutRule, block_bytes: int) -> Iterator[Block]:
    """The blocks of a unit, in order. `outer` places the ends of segments, `inner` the cuts between blocks.

    Every place that is legal for `outer` must be so for `inner`. DataError where a plain text ends too early.
    """
    segments = unit.segments
    lookbehind = int(segments[0].start > 0)
    done = 0
    with open_measured(unit.text, segments[0].start - lookbehind) as (file, file_position):
        window = _Window(file, segments[0].start - lookbehind, block_bytes)
        window.position = segments[0].start
        if lookbehind:
            window.skip_to_cut(outer)
        for number, segment in enumerate(segments):
            for position, text in window.segment(segment, outer, inner):
                before, done = done, done + len(text) if file_position is None else file_position()
                yield Block(number, position, text, done - before)
        planned = segments[-1].stop
        if planned is not None and window.ended and window.end < planned:
            raise DataError(
                f"{unit.text} ended {planned - window.end:,} bytes early: it changed while it was read; try again"
            )


class _Window:
    """A buffer that moves over a text, and keeps the byte before the current position."""

    def __init__(self, file: IO[bytes], start: int, block_bytes: int) -> None:
        self._file, self._block_bytes = file, block_bytes
        self._buffer, self._start = b"", start
        self.position = start
        """Of the next byte to give out."""
        self.ended = False

    @property
    def end(self) -> int:
        """Position of the byte after the buffer."""
        return self._start + len(self._buffer)

    def skip_to_cut(self, outer: CutRule) -> None:
        """Move to the first legal place from the current position."""
        while True:
            place = outer.first(self._buffer, self.position - self._start)
            if place != NOWHERE:
                self.position = self._start + place
                return
            if outer.unbounded:
                self.position = max(self.position, self.end)
            if not self._fill():
                self.position = self.end
                return

    def segment(self, segment: Segment, outer: CutRule, inner: CutRule) -> Iterator[tuple[int, bytes]]:
        """The rest of a segment, as (position, text), up to the first legal place from its nominal end."""
        while True:
            place = NOWHERE
            stop_is_near = segment.stop is not None and self.end >= segment.stop
            if segment.stop is not None and stop_is_near:
                place = outer.first(self._buffer, max(segment.stop, self.position) - self._start)
            if place == NOWHERE and self.ended:
                place = len(self._buffer)
            finished = place != NOWHERE
            if not finished and (outer.unbounded or not stop_is_near):
                place = inner.last(self._buffer)
            stop = self._start + place
            if place != NOWHERE and stop > self.position:
                position, text = self.position, self._buffer[self.position - self._start : place]
                self.position = stop
                yield position, text
            if finished:
                return
            self._fill()

    def _fill(self) -> bool:
        """Read on, and drop what is behind the byte before the current position; whether there was more."""
        more = self._file.read(self._block_bytes)
        keep = max(self.position - 1 - self._start, 0)
        self._buffer = self._buffer[keep:] + more
        self._start += keep
        self.ended = not more
        return not self.ended
