"""Plain data from what torch restored: stand-ins become what they mean, tensors lose what clings to them."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from detcore.weights.reader.problems import RefusedError
from detcore.weights.reader.stand_in import StandIn

_ATOMS = (bool, int, float, complex, str, bytes, bytearray, type(None), torch.dtype, torch.Size)
_MAX_DEPTH = 200


def to_plain_data(content: Any) -> Any:
    """Copy of what torch restored, of dicts, lists, tuples, sets, numbers, text, bytes and tensors only.

    Objects that stood in several places go on being one object, and tensors that share memory go on
    sharing it. Parameters become tensors; hooks and attributes of tensors are left behind. An ordered dict
    stays one where it carries the version numbers of a state dict.

    Raises:
        RefusedError: It holds something else, or is nested too deep or within itself.
    """
    return _Plain().convert(content, 0)


class _Plain:
    def __init__(self) -> None:
        self._made: dict[int, Any] = {}
        self._open: set[int] = set()
        self._kept: list[Any] = []  # what was made on the way, so that its id is not given to another

    def convert(self, value: Any, depth: int) -> Any:
        if type(value) in _ATOMS:
            return value
        if id(value) in self._made:
            return self._made[id(value)]
        if depth > _MAX_DEPTH or id(value) in self._open:
            raise RefusedError(f"its content is nested more than {_MAX_DEPTH} deep, or within itself")
        self._open.add(id(value))
        plain = self._new(value, depth)
        self._open.discard(id(value))
        self._kept.append(value)
        self._made[id(value)] = plain
        return plain

    def _new(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in (Tensor, torch.nn.Parameter):
            return Tensor.detach(value)
        if kind in (dict, Counter):
            return self._mapping(dict.items(value), depth)
        if kind is OrderedDict:
            return self._ordered(value, depth)
        if kind in (list, tuple):
            parts = [self.convert(part, depth + 1) for part in value]
            return parts if kind is list else tuple(parts)
        if kind is set:
            return {self._key(part) for part in value}
        if isinstance(value, StandIn):
            return self.convert(value.plain(), depth + 1)
        if kind is torch.device:
            return str(value)
        if kind is type:
            raise RefusedError("it holds a class, which is no data")
        name = f"{kind.__module__}.{kind.__qualname__}"
        raise RefusedError(f"it holds a {name}, which is neither a tensor nor plain data")

    def _mapping(self, items: Iterable[tuple[Any, Any]], depth: int) -> dict[Any, Any]:
        return {self._key(key): self.convert(part, depth + 1) for key, part in items}

    def _key(self, key: Any) -> Any:
        return tuple(map(self._key, key)) if type(key) is tuple else self.convert(key, _MAX_DEPTH)

    def _ordered(self, value: OrderedDict[Any, Any], depth: int) -> dict[Any, Any]:
        # Its attributes come from the file, and may hide its methods.
        plain = self._mapping(OrderedDict.items(value), depth)
        versions = value.__dict__.get("_metadata")
        if not isinstance(versions, dict) or not all(
            isinstance(part, dict) for part in dict.values(versions)
        ):
            return plain
        state: Any = OrderedDict(plain)
        state._metadata = self.convert(versions, depth + 1)
        ordered: OrderedDict[Any, Any] = state
        return ordered
