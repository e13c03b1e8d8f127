"""Arbitrary keys of users' annotations as JSON bytes: compact, and nothing runs when they are read."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

from detcore.errors import DataError

TUPLE, ARRAY = "__tuple__", "__array__"


def _plain(value: Any, where: str) -> Any:
    """The value with tuples and arrays in a form that JSON can hold."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.hasobject is False:
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode("ascii")
        return {ARRAY: [value.dtype.str, list(value.shape), data]}
    if isinstance(value, tuple):
        return {TUPLE: [_plain(item, where) for item in value]}
    if isinstance(value, list):
        return [_plain(item, where) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) and key not in (TUPLE, ARRAY) for key in value):
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    raise DataError(
        f"{where}: a {type(value).__name__} cannot be kept with the annotations; use numbers, strings, "
        "lists, tuples, arrays and dicts with string keys, or load it in a transform"
    )


def _restore(value: dict[str, Any]) -> Any:
    if len(value) == 1:
        if TUPLE in value:
            return tuple(value[TUPLE])
        if ARRAY in value:
            dtype, shape, data = value[ARRAY]
            return np.frombuffer(base64.b64decode(data), np.dtype(dtype)).reshape(shape).copy()
    return value


def to_json_bytes(value: Any, where: str) -> bytes:
    """Encode a value; ``where`` names it in errors.

    Raises:
        DataError: The value holds an object that is neither plain data nor an array.
    """
    text = json.dumps(_plain(value, where), separators=(",", ":"), ensure_ascii=True)
    return text.encode("ascii")


def from_json_bytes(data: bytes) -> Any:
    """Decode what `to_json_bytes` made."""
    return json.loads(data, object_hook=_restore)
