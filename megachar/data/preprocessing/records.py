"""JSON lines: the texts of many records at once."""

import gc
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from megachar.data.vocabulary import Int64


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

    RecordError where a line is no JSON object or has no text under the key, unless `skip_bad`.
    """
    texts = _parse_at_once(lines, key)
    num_skipped = 0
    if texts is None:  # some line is blank or bad: take them one by one
        texts = []
        for number, line in enumerate(lines.split(b"\n")):
            try:
                texts.extend(_parse_line(line, number, key))
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
    for number, line in enumerate(lines.split(b"\n")):
        try:
            record -= len(_parse_line(line, number, key))
        except RecordError:
            continue
        if record < 0:
            return number
    raise AssertionError("no such record")


def _parse_at_once(lines: bytes, key: str) -> list[str] | None:
    """All texts by one call of the parser, or None where the lines are not all good records.

    The lines become the elements of one array. Between them stands a number drawn afresh each time: an element that is
    not followed by it spans two lines or is one of two on a line, and then the lines are taken one by one.
    """
    body = lines.rstrip(b"\r\n")
    if not body:
        return []
    mark = secrets.randbits(62)
    with _no_garbage_collection():
        try:
            values: list[Any] = orjson.loads(b"[%b]" % body.replace(b"\n", b",%d," % mark))
        except orjson.JSONDecodeError:
            return None
        gaps = body.count(b"\n")
        if len(values) != 2 * gaps + 1 or values[1::2].count(mark) != gaps:
            return None
        try:
            texts = [record[key] for record in values[::2]]
        except (KeyError, TypeError):
            return None
        return texts if set(map(type, texts)) == {str} else None


def _parse_line(line: bytes, number: int, key: str) -> list[str]:
    """The text of a line, or none where it is blank."""
    if not line.strip():
        return []
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise RecordError(number, f"not JSON ({error})") from None
    if not isinstance(record, dict):
        raise RecordError(number, f"no JSON object but {_shortened(record)}")
    if key not in record:
        known = ", ".join(list(record)[:8]) or "none"
        raise RecordError(number, f"no key {key!r}; its keys are: {known}")
    if not isinstance(record[key], str):
        raise RecordError(number, f"no text under the key {key!r} but {_shortened(record[key])}")
    return [record[key]]


def _shortened(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 40 else text[:37] + "..."


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """The collector would walk over all records again and again, and they hold no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
