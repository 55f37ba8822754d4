"""What a worker does: it reads a unit of the text, encodes it, and leaves the tokens in files, which another joins."""

import contextlib
import pickle
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
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
    num_done: int
    """Of the bytes that the work is counted in."""
    tokens: npt.NDArray[Any]
    ends: Int64
    num_bytes: int
    """Of its text."""
    words: WordCounter
    num_skipped_lines: int


@dataclass(frozen=True)
class Part:
    """The tokens of a segment, in a file of its own."""

    source: int
    split: SplitName
    tokens_path: Path
    lengths_path: Path
    """int64 lengths, in tokens, of the documents that end in this part."""
    num_tokens: int
    num_done: int
    """Of the bytes that the work is counted in."""
    num_bytes: int
    words: WordCounter
    num_skipped_lines: int


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
            raise DataError(f"{place_of(unit, recipe, text, error.position)}: {error.problem}; {error.mend}") from None
        words = WordCounter()
        words.update(np.frombuffer(text.text, dtype=np.uint8), text.ends)
        block = text.block
        yield EncodedBlock(
            block.segment, block.text, block.num_done, tokens, ends, len(text.text), words, text.num_skipped_lines
        )


def write_parts(number: int, unit: Unit, pickled_recipe: bytes, folder: Path) -> list[Part]:
    """Encode unit `number` into part files inside `folder`. Stopped where the folder holds the file that says so."""
    recipe = _unpickled(pickled_recipe)
    dtype = recipe.vocabulary.dtype.newbyteorder("<")
    parts = []
    blocks = encode_unit(unit, recipe)
    block = next(blocks, None)
    for segment in range(len(unit.segments)):
        tokens_path = folder / f"part-{number}-{segment}.tokens"
        lengths_path = folder / f"part-{number}-{segment}.lengths"
        num_tokens = num_done = num_bytes = num_skipped = open_tokens = 0
        words = WordCounter()
        with ExitStack() as stack:
            tokens_file = stack.enter_context(tokens_path.open("wb", buffering=0))
            lengths_file = stack.enter_context(lengths_path.open("wb"))
            while block is not None and block.segment == segment:
                if (folder / STOP_NAME).exists():
                    raise Stopped
                tokens_file.write(np.ascontiguousarray(block.tokens, dtype=dtype).data)
                lengths, open_tokens = document_lengths(block.tokens.size, block.ends, open_tokens)
                lengths_file.write(lengths.astype("<i8", copy=False).data)
                words.join(block.words)
                num_tokens += block.tokens.size
                num_done += block.num_done
                num_bytes += block.num_bytes
                num_skipped += block.num_skipped_lines
                block = next(blocks, None)
        split = unit.segments[segment].split
        part = Part(unit.source, split, tokens_path, lengths_path, num_tokens, num_done, num_bytes, words, num_skipped)
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


def pickled(recipe: Recipe) -> bytes:
    """A recipe for `write_parts`, which unpacks it once in each process and not once for each unit."""
    return pickle.dumps(recipe)


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


def remove(part: Part) -> None:
    """Delete the files of a part."""
    for path in (part.tokens_path, part.lengths_path):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
