"""What a worker does: it reads a unit of the text, encodes it, and leaves the tokens in files, which another joins."""

import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from megachar.base.errors import DataError
from megachar.corpora.inputs import COPY_BYTES, Input, open_text
from megachar.corpora.plan import Unit
from megachar.corpora.records import RecordError, Records, line_of_record, parse_records
from megachar.corpora.segments import LINES, Block, read_blocks, rule_of
from megachar.corpora.words import WordCounter
from megachar.data.corpus import SplitName
from megachar.data.vocabulary import Cut, EncodingError, Int64, Vocabulary

Documents = Literal["file", "line", "record"]
NO_ENDS: Int64 = np.zeros(0, dtype=np.int64)
BLOCK_BYTES = 1 << 20

STOP_NAME = "stop"
"""A file of this name in the folder of the parts tells workers to give up."""


class Stopped(Exception):
    """The work was given up; somebody else says why."""


@dataclass(frozen=True)
class Recipe:
    """How text becomes documents and tokens."""

    vocabulary: Vocabulary
    documents: Documents = "file"
    """What one document is: a whole text, a line with its line end, or a JSON record's text."""
    json_key: str = "text"
    skip_bad_lines: bool = False
    block_bytes: int = BLOCK_BYTES


@dataclass
class Tally:
    """What some encoded text amounts to. Those of consecutive pieces are joined by `join`."""

    num_tokens: int = 0
    num_bytes: int = 0
    """Of the text."""
    num_done: int = 0
    """Of the bytes that the work is counted in."""
    num_skipped_lines: int = 0
    words: WordCounter = field(default_factory=WordCounter)

    def join(self, after: "Tally") -> None:
        """Add the tally of the text that follows."""
        self.num_tokens += after.num_tokens
        self.num_bytes += after.num_bytes
        self.num_done += after.num_done
        self.num_skipped_lines += after.num_skipped_lines
        self.words.join(after.words)


@dataclass(frozen=True)
class TextBlock:
    """Text of a unit, in its documents."""

    text: bytes
    ends: Int64
    """Where documents end, (documents,); what follows the last goes on in the next block."""
    num_skipped_lines: int
    block: Block
    """What it was made from."""


@dataclass(frozen=True)
class EncodedBlock:
    """The tokens (t,) of a text block, and where documents end in them."""

    segment: int
    """Number of the segment in its unit."""
    read: bytes
    """The text of the source that it was made from."""
    tokens: npt.NDArray[Any]
    ends: Int64
    tally: Tally


@dataclass(frozen=True)
class Part:
    """The tokens of a segment, in a file of its own."""

    source: int
    split: SplitName
    tokens_path: Path
    lengths_path: Path
    """int64 lengths, in tokens, of the documents that end in this part."""
    tally: Tally = field(default_factory=Tally)


def read_text(unit: Unit, recipe: Recipe, cut: Cut) -> Iterator[TextBlock]:
    """The text of a unit, block by block, cut where `cut` allows. DataError where a line is no record."""
    inner = rule_of(cut)
    if recipe.documents == "record":
        inner = LINES
    outer = inner if recipe.documents == "file" else LINES
    for block in read_blocks(unit, outer, inner, recipe.block_bytes):
        if recipe.documents == "record":
            records = _records_of(unit, block, recipe)
            text, ends, num_skipped = records.text, records.ends, records.num_skipped
        else:
            text, ends, num_skipped = block.text, NO_ENDS, 0
            if recipe.documents == "line":
                ends = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == 10) + 1
        yield TextBlock(text, ends, num_skipped, block)


def place_of(unit: Unit, recipe: Recipe, text: TextBlock, position: int) -> str:
    """Where byte `position` of a block is, for people."""
    if recipe.documents != "record":
        return f"{unit.text}, byte {text.block.position + position:,}"
    record = int(np.searchsorted(text.ends, position, side="right"))
    start = int(text.ends[record - 1]) if record else 0
    line = line_of_record(text.block.text, recipe.json_key, record)
    return f"{unit.text}, line {_line_number(unit.text, text.block, line):,}, byte {position - start:,} of its text"


def encode_unit(unit: Unit, recipe: Recipe) -> Iterator[EncodedBlock]:
    """The tokens of a unit, block by block. DataError, with the place, where a text cannot be encoded."""
    vocabulary = recipe.vocabulary
    _keep_freed_memory()
    for text in read_text(unit, recipe, vocabulary.cut):
        try:
            tokens, ends = vocabulary.encode_documents(text.text, text.ends)
        except EncodingError as error:
            raise error.at(place_of(unit, recipe, text, error.position)) from None
        block, tally = text.block, Tally(tokens.size, len(text.text), text.block.num_done, text.num_skipped_lines)
        tally.words.update(np.frombuffer(text.text, dtype=np.uint8), text.ends)
        yield EncodedBlock(block.segment, block.text, tokens, ends, tally)


def write_parts(number: int, unit: Unit, pickled_recipe: bytes, folder: Path) -> list[Part]:
    """Encode unit `number` into part files inside `folder`. Stopped where the folder holds the file that says so.

    The recipe comes pickled, so that each process unpacks it once, and not once for each unit.
    """
    recipe = _unpickled(pickled_recipe)
    dtype = recipe.vocabulary.dtype.newbyteorder("<")
    parts = []
    blocks = encode_unit(unit, recipe)
    block = next(blocks, None)
    for place, segment in enumerate(unit.segments):
        name = f"part-{number}-{place}"
        part = Part(unit.source, segment.split, folder / f"{name}.tokens", folder / f"{name}.lengths")
        open_tokens = 0
        with part.tokens_path.open("wb", buffering=0) as tokens_file, part.lengths_path.open("wb") as lengths_file:
            while block is not None and block.segment == place:
                if (folder / STOP_NAME).exists():
                    raise Stopped
                tokens_file.write(np.ascontiguousarray(block.tokens, dtype=dtype).data)
                lengths, open_tokens = document_lengths(block.tokens.size, block.ends, open_tokens)
                lengths_file.write(lengths.astype("<i8", copy=False).data)
                part.tally.join(block.tally)
                block = next(blocks, None)
        parts.append(part)
    return parts


def document_lengths(num_tokens: int, ends: Int64, open_tokens: int) -> tuple[Int64, int]:
    """Lengths (documents,) of the documents that end at `ends` in a block of `num_tokens`, and the tokens after them.

    The first one began `open_tokens` tokens before the block.
    """
    if not ends.size:
        return NO_ENDS, open_tokens + num_tokens
    lengths = np.diff(ends, prepend=0)
    lengths[0] += open_tokens
    return lengths, num_tokens - int(ends[-1])


@lru_cache(maxsize=1)
def _unpickled(recipe: bytes) -> Recipe:
    unpickled: Recipe = pickle.loads(recipe)
    return unpickled


def _keep_freed_memory() -> None:
    """Freed memory shall wait for the next block, not go back to the system, which has to clear it for each.

    The C library of Linux keeps up to twice the size of the largest block that was freed; this one is never touched.
    """
    bytes(31 << 20)


def _records_of(unit: Unit, block: Block, recipe: Recipe) -> Records:
    try:
        return parse_records(block.text, recipe.json_key, recipe.skip_bad_lines)
    except RecordError as error:
        raise DataError(
            f"{unit.text}, line {_line_number(unit.text, block, error.line):,}: {error}; mend the line, name the right "
            "--json-key, or leave such lines out (--skip-bad-lines)"
        ) from None


def _line_number(text: Input, block: Block, line: int) -> int:
    """Number in the file, from 1, of line `line` of a block: counts the lines before it, which only messages need."""
    remaining, count = block.position, 0
    with open_text(text) as file:
        while remaining and (chunk := file.read(min(COPY_BYTES, remaining))):
            count += chunk.count(b"\n")
            remaining -= len(chunk)
    return count + line + 1
