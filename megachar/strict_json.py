"""JSON from files that anyone may have written: what is no JSON, or holds no finite numbers, is a ValueError."""

import hashlib
import json
import math
from typing import Any


def parse(data: bytes) -> Any:
    """The value of a JSON text in UTF-8; ValueError where it is none, or nested too deep to be read."""
    try:
        return json.loads(data.decode(), parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def checksum(values: dict[str, Any]) -> str:
    """The sha256 of values as plain JSON, whatever the order of keys and the white space they were written with."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON's")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits:.20} is out of range")
    return value
