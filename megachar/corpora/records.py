"""JSON lines: the texts of many records at once."""

import codecs
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from megachar.base.errors import ConfigError
from megachar.data.vocabulary import Int64

_LINE_END, _RETURN, _OPENS, _CLOSES = b"\n\r{}"
# What the decoder raises on bytes that are no JSON, or JSON of another shape.
_REFUSALS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
# What Python and others write for numbers that JSON lacks; strings are matched so that nothing in them is, and one that
# does not end is matched too, lest it be tried from each of its bytes.
_CONSTANTS = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*"?)|-?Infinity|NaN', re.DOTALL)
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class RecordError(ValueError):
    """A line that is no record with a text."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line
        """Number of the line in its block, from 0."""


@dataclass(frozen=True)
class Records:
    """The texts of the records of some lines, one after another."""

    text: bytes
    ends: Int64
    """Where each text ends, (records,)."""
    num_skipped: int
    """Lines left out because they are no record with a text."""


def parse_records(lines: bytes, key: str, skip_bad: bool) -> Records:
    """The texts under `key` in whole JSON lines; blank lines are passed over.

    RecordError where a line is no JSON object or has no text under the key, unless `skip_bad`. What stands under other
    keys is passed over without a close look, NaN and Infinity too; so is a byte order mark before a line, since files
    that begin with one may have been joined.
    """
    decoder = _decoder(key)
    texts = _parse_at_once(lines, decoder)
    num_skipped = 0
    if texts is None:  # some line is blank or bad: take them one by one
        texts = []
        for number, line in enumerate(lines.split(b"\n")):
            try:
                texts.extend(_parse_line(line, number, key, decoder))
            except RecordError:
                if not skip_bad:
                    raise
                num_skipped += 1
    # One by one: joined first, a single character outside ASCII would make all of them slow.
    encoded = list(map(str.encode, texts))
    lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
    return Records(b"".join(encoded), np.cumsum(lengths), num_skipped)


def line_of_record(lines: bytes, key: str, record: int) -> int:
    """Number in `lines`, from 0, of the line that holds the record of that number, bad and blank lines not counted."""
    decoder = _decoder(key)
    for number, line in enumerate(lines.split(b"\n")):
        try:
            record -= len(_parse_line(line, number, key, decoder))
        except RecordError:
            continue
        if record < 0:
            return number
    raise AssertionError("no such record")


@lru_cache(maxsize=1)
def _decoder(key: str) -> Any:
    """Decodes objects with a text under `key`, and makes nothing of their other keys."""
    try:
        # No cycles can begin in a record, so the garbage collector need not walk over them again and again.
        record = msgspec.defstruct("Record", [("text", str)], rename={"text": key}, gc=False)
    except ValueError as error:
        raise ConfigError(f"the key {key!r} of JSON lines cannot be looked for ({error}): rename it") from None
    return msgspec.json.Decoder(record)


def _parse_at_once(lines: bytes, decoder: Any) -> list[str] | None:
    """All texts by one call of the decoder, or None where the lines are not all good records.

    The decoder takes line ends for spaces, so that each line holds one record is seen apart.
    """
    body = lines.rstrip(b"\r\n")
    if not body:
        return []
    num_lines = _num_objects(body)
    if num_lines is None:
        return None
    try:
        records = decoder.decode_lines(body)
    except _REFUSALS:
        return None
    return [record.text for record in records] if len(records) == num_lines else None


def _num_objects(body: bytes) -> int | None:
    """The number of lines, if each begins with { and ends with }; else None.

    In JSON no { follows a } inside a value without a comma between them, nor a line end in a string. So values that
    pass lie on one line each; but a line may still hold two.
    """
    text = np.frombuffer(body, dtype=np.uint8)
    line_ends = np.flatnonzero(text == _LINE_END)
    if text[0] != _OPENS or text[-1] != _CLOSES:
        return None
    last = line_ends - 1
    last -= text[last] == _RETURN
    good = bool((text[last] == _CLOSES).all() and (text[line_ends + 1] == _OPENS).all())
    return line_ends.size + 1 if good else None


def _parse_line(line: bytes, number: int, key: str, decoder: Any) -> list[str]:
    """The text of a line, or none where it is blank."""
    line = line.removeprefix(codecs.BOM_UTF8)
    if not line.strip():
        return []
    try:
        return [decoder.decode(line).text]
    except _REFUSALS:
        pass
    line = _CONSTANTS.sub(lambda match: match[1] or b"null", line)
    try:
        return [decoder.decode(line).text]
    except _REFUSALS as error:
        raise RecordError(number, _what_is_wrong(line, key, error)) from None


def _what_is_wrong(line: bytes, key: str, error: Exception) -> str:
    """Why a line that the decoder refused with `error` is no record with a text."""
    if line.startswith(_UTF16):
        return "not JSON but UTF-16 (make it UTF-8: iconv -f UTF-16 -t UTF-8)"
    try:
        record = msgspec.json.decode(line)
    except _REFUSALS as reason:
        return f"not JSON ({reason})"
    if not isinstance(record, dict):
        return f"no JSON object but {_shortened(record)}"
    if key not in record:
        known = ", ".join(list(record)[:8]) or "none"
        return f"no key {key!r}; its keys are: {known}"
    if not isinstance(record[key], str):
        return f"no text under the key {key!r} but {_shortened(record[key])}"
    return str(error)


def _shortened(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 40 else text[:37] + "..."
