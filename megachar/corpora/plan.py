"""Which bytes of which text go to which split, and the units of work they make. Nothing here depends on the workers."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from megachar.base.errors import DataError
from megachar.corpora.inputs import Input, find_inputs, unpacked_size, work_bytes
from megachar.data.corpus import SPLIT_NAMES, SplitName

DEFAULT_SPLIT = "90,5,5"  # of enwik8 and text8, in every paper
UNIT_BYTES = 32 << 20

Texts = Path | Sequence[Input]


@dataclass(frozen=True)
class SourceFile:
    """A text and the splits cut from it: consecutive pieces from byte 0 of the unpacked text to its end."""

    text: Input
    pieces: tuple[tuple[SplitName, int | None], ...]
    """Each split with its number of bytes, in the order in which they lie in the text; None: all of a packed text."""

    @property
    def path(self) -> Path:
        """The file."""
        return self.text.path

    @property
    def num_bytes(self) -> int:
        """Bytes of the unpacked text when it was looked at; 0 where that is known only after unpacking."""
        return sum(size or 0 for _, size in self.pieces)


@dataclass(frozen=True)
class Segment:
    """Bytes [start, stop) of an unpacked text, for one split; its true ends are the next legal cuts from there."""

    split: SplitName
    start: int
    stop: int | None
    """None: to the end of the text."""


@dataclass(frozen=True)
class Unit:
    """What one worker does in one go: consecutive segments of one text."""

    source: int
    """Number of the source, from 0."""
    text: Input
    segments: tuple[Segment, ...]


def cut_by_position(texts: Texts, split: str = DEFAULT_SPLIT) -> list[SourceFile]:
    """Cut texts, joined, into train, valid and test at floor(bytes x percentage / 100), as "90,5,5"; 0 leaves one out.

    A packed text is unpacked once to know its size, unless all goes to one split. DataError where a file is missing
    or empty, the percentages are no shares of 100, or a share is below one byte.
    """
    percentages = parse_split(split)
    inputs = _inputs(texts)
    whole = [name for name, percentage in zip(SPLIT_NAMES, percentages, strict=True) if percentage == 100]
    if whole:
        return [_whole(text, whole[0]) for text in inputs]
    sizes = [unpacked_size(text) for text in inputs]
    total = sum(sizes)
    stops = [int(total * sum(percentages[: number + 1]) / 100) for number in range(len(percentages))]
    starts = [0, *stops[:-1]]
    for name, percentage, start, stop in zip(SPLIT_NAMES, percentages, starts, stops, strict=True):
        if percentage and start == stop:
            what = str(inputs[0]) if len(inputs) == 1 else f"the input of {len(inputs)} texts"
            raise DataError(
                f"{what} has {total} bytes: too short to give the split '{name}' {float(percentage):g} % of it. "
                "Use a longer text or --split 100,0,0"
            )
    sources, begin = [], 0
    for text, size in zip(inputs, sizes, strict=True):
        pieces = []
        for name, start, stop in zip(SPLIT_NAMES, starts, stops, strict=True):
            inside = min(stop, begin + size) - max(start, begin)
            if inside > 0:
                pieces.append((name, inside))
        if pieces:  # a packed text may turn out to be empty
            sources.append(SourceFile(text, tuple(pieces)))
        begin += size
    return sources


def total_bytes(sources: Sequence[SourceFile]) -> int:
    """Bytes that preparing them is counted in: of the texts, or of packed files whose unpacked size is not written."""
    return sum(work_bytes(source.text) for source in sources)


def one_file_per_split(files: Mapping[SplitName, Texts]) -> list[SourceFile]:
    """Take each split from texts of its own; DataError where a file is missing or empty, or none is given."""
    if not files:
        raise DataError("no file to prepare: give one for train, valid or test")
    return [_whole(text, name) for name in SPLIT_NAMES if name in files for text in _inputs(files[name])]


def parse_split(split: str) -> tuple[Fraction, ...]:
    """The three percentages of "90,5,5", exactly (so that 99.8,0.1,0.1 adds up); DataError where they are not that."""
    parts = [part.strip() for part in split.split(",")]
    if len(parts) != len(SPLIT_NAMES) or not all(re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,9})?", part) for part in parts):
        raise DataError(
            f"the split {split!r} is not three non-negative percentages: write train,valid,test as in {DEFAULT_SPLIT}"
        )
    percentages = tuple(Fraction(part) for part in parts)
    if sum(percentages) != 100:
        raise DataError(f"the split {split!r} adds up to {float(sum(percentages)):g} %, not 100: try {DEFAULT_SPLIT}")
    return percentages


def units_of(sources: Sequence[SourceFile], unit_bytes: int = UNIT_BYTES) -> list[Unit]:
    """The units of work, in the order of the corpus: ranges of a plain text, or the whole of a packed one."""
    units = []
    for number, source in enumerate(sources):
        segments, start = [], 0
        for name, size in source.pieces:
            stop = None if size is None else start + size
            if source.text.is_plain:
                assert stop is not None
                bounds = [*range(start, stop, unit_bytes), stop]
                segments += [Segment(name, *ends) for ends in pairwise(bounds)]
            else:
                segments.append(Segment(name, start, stop))
            start = stop or 0
        if source.text.is_plain:
            units += [Unit(number, source.text, (segment,)) for segment in segments]
        else:
            units.append(Unit(number, source.text, tuple(segments)))
    return units


def _inputs(texts: Texts) -> list[Input]:
    return find_inputs([texts]) if isinstance(texts, str | Path) else list(texts)


def _whole(text: Input, name: SplitName) -> SourceFile:
    return SourceFile(text, ((name, unpacked_size(text) if text.is_plain else None),))
