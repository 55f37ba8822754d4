"""What may become of a file: damage to its bytes, to the values it holds, or to what it is."""

import gzip
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

STRANGE: list[Any] = [
    None, True, -1, 0, 1, 2, 10**30, -(10**18), 2**63, 0.5, 1e308, float("nan"), float("inf"), "", " ", "x", "007",
    "x" * 5000, "../../etc/passwd", "/etc/passwd", "a\x00b", "\ud800", "\u202e", [], {}, [[]], [1, 2], {"a": {"b": 1}},
    "${oc.env:HOME}", "${a}", "???", "<script>", "1e3", [None] * 50, "nan", "bytes", "0" * 64,
]  # fmt: skip
Mutation = Callable[[bytes, random.Random], bytes]


def truncated(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(max(len(data), 1))]


def lengthened(data: bytes, draw: random.Random) -> bytes:
    return data + draw.choice([b"\0", b"\n", b"}", draw.randbytes(9), data])


def flipped(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(draw.choice([1, 1, 1, 2, 8])):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def start_flipped(data: bytes, draw: random.Random) -> bytes:
    return flipped(data[:64], draw) + data[64:]


def overwritten(data: bytes, draw: random.Random) -> bytes:
    start, count = draw.randrange(len(data) or 1), draw.choice([1, 4, 8, 200])
    return data[:start] + draw.choice([bytes(count), b"\xff" * count, draw.randbytes(count)]) + data[start + count :]


def cut_out(data: bytes, draw: random.Random) -> bytes:
    start, stop = sorted(draw.randrange(len(data) or 1) for _ in range(2))
    return data[:start] + data[stop:]


def doubled(data: bytes, draw: random.Random) -> bytes:
    start, stop = sorted(draw.randrange(len(data) or 1) for _ in range(2))
    return data[:stop] + data[start:]


def foreign(data: bytes, draw: random.Random) -> bytes:
    kinds = [b"", b"\n", b"null", b"{}", b"[]", b"3", b'""', gzip.compress(data), draw.randbytes(300), b"PK\x03\x04",
             b"\xef\xbb\xbf" + data, data.decode("latin-1").encode("utf-16"), b"[" * 90_000, b'{"a":' * 90_000,
             b"\x89PNG\r\n", b"\x80\x04K\x01.", b"9" * 9000]  # fmt: skip
    return draw.choice(kinds)


BYTES: list[Mutation] = [truncated, lengthened, flipped, flipped, start_flipped, overwritten, cut_out, doubled, foreign]


def value_changed(value: Any, draw: random.Random) -> Any:
    """A plain value with one change at a place drawn at random."""
    places = _places(value)
    if not places:
        return draw.choice(STRANGE)
    holder, key = draw.choice(places)
    change = draw.randrange(6)
    if change == 0:
        del holder[key]
    elif change == 1 and isinstance(holder, dict):
        holder[draw.choice([f"{key}x", "a", "__class__", "../a"])] = holder.pop(key)
    elif change == 2:
        other, place = draw.choice(places)
        holder[key], other[place] = other[place], holder[key]
    elif change == 3 and isinstance(holder[key], int | float):
        holder[key] = draw.choice([-holder[key], holder[key] + 1, str(holder[key]), [holder[key]], 0])
    else:
        holder[key] = draw.choice(STRANGE)
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every place inside: what holds it, and its key there."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += [(value, key), *_places(inner)]
    return found


def json_changed(data: bytes, draw: random.Random) -> bytes:
    """Other values; a place inside itself, which JSON cannot write, is none."""
    try:
        return json.dumps(value_changed(json.loads(data), draw)).encode()
    except (ValueError, RecursionError):
        return b"{}"


def yaml_changed(data: bytes, draw: random.Random) -> bytes:
    try:
        return yaml.safe_dump(value_changed(yaml.safe_load(data), draw), allow_unicode=True).encode()
    except (ValueError, RecursionError, yaml.YAMLError):
        return b"&a [*a]"


def json_line_changed(data: bytes, draw: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    place = draw.randrange(len(lines))
    lines[place] = json_changed(lines[place], draw) + b"\n"
    return b"".join(lines)


def header_changed(data: bytes, draw: random.Random) -> bytes:
    """Another header of a safetensors file."""
    size = int.from_bytes(data[:8], "little")
    header = json_changed(data[8 : 8 + size], draw)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def replaced(path: Path, draw: random.Random) -> None:
    """Something else under the name of a file: a pipe, a folder, a link to nothing, to itself, to a device; nothing."""
    path.unlink()
    kind = draw.randrange(6)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    elif kind < 5:
        path.symlink_to([path.with_name("nowhere"), path, Path("/dev/zero")][kind - 2])
