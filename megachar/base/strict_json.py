"""JSON from files that anyone may have written: what is no JSON, or holds no finite numbers, is a ValueError.

It is written by `files.json_text`.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from typing import Any, Final

_DEEPEST: Final = 100


def parse(data: bytes, constant: Callable[[str], Any] | None = None) -> Any:
    """The value of a JSON text in UTF-8; ValueError where it is none, or nested too deep to be read.

    `constant` gives what NaN and infinity stand for, which are no JSON; without it, they are refused.
    """
    try:
        value = json.loads(data.decode(), parse_constant=constant or _refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    level, depth = [value], 0
    while level:
        if depth > _DEEPEST:
            raise ValueError("it is nested too deep")
        level, depth = [inner for outer in level for inner in _inside(outer)], depth + 1
    return value


def parse_object(data: bytes) -> dict[str, Any]:
    """The values of a JSON object; ValueError as from `parse`, or where it is something else."""
    value = parse(data)
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")
    return value


def checksum(values: Any) -> str:
    """The sha256 of values as plain JSON, whatever the order of keys and the white space they were written with."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON's")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits:.20} is out of range")
    return value
