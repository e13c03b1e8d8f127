"""Content of checkpoints: tensors and plain data, nothing that needs code to be read."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detcore.errors import CheckpointError

ATOMS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.Size)
MAX_DEPTH = 200


def to_plain(value: Any, path: str = "") -> Any:
    """Copy of nested data in which everything is a tensor on the CPU or plain.

    Parameters become tensors, numpy scalars numbers, numpy arrays tensors, other mappings dicts, paths
    strings. Tensors that share their memory go on sharing it; a view of larger memory becomes a copy of its
    own part.

    Args:
        value: Anything.
        path: Where it stands, for the message.

    Raises:
        CheckpointError: Naming the path of what is neither tensor nor plain data.
    """
    return _Plain().convert(value, path, 0)


class _Plain:
    def __init__(self) -> None:
        self.seen: dict[int, tuple[Any, Tensor]] = {}

    def convert(self, value: Any, path: str, depth: int) -> Any:
        if type(value) in ATOMS:
            return value
        if depth > MAX_DEPTH:
            raise CheckpointError(
                f"a checkpoint cannot hold '{path[:80]}...': nested more than {MAX_DEPTH} deep,"
                " or within itself"
            )
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if isinstance(value, Mapping):
            return self._mapping(value, path, depth)
        if isinstance(value, list | tuple | set | frozenset):
            parts = [self.convert(part, f"{path}[{i}]", depth + 1) for i, part in enumerate(value)]
            return (
                parts if isinstance(value, list) else tuple(parts) if isinstance(value, tuple) else set(parts)
            )
        return self._other(value, path)

    def _tensor(self, value: Tensor, path: str) -> Tensor:
        if value.is_quantized or value.layout not in (torch.strided, torch.sparse_coo):
            raise CheckpointError(f"a checkpoint cannot hold '{path}': a quantized or compressed tensor")
        if id(value) not in self.seen:
            plain = value.detach()
            if type(plain) is not Tensor:
                plain = plain.as_subclass(Tensor)
            if plain.layout is torch.strided:
                if plain.untyped_storage().nbytes() > plain.numel() * plain.element_size():
                    plain = plain.clone()
                plain = plain.cpu()
            self.seen[id(value)] = (value, plain)  # kept, so that its id is not given to another
        return self.seen[id(value)][1]

    def _mapping(self, value: Mapping[Any, Any], path: str, depth: int) -> dict[Any, Any]:
        plain: dict[Any, Any] = OrderedDict() if type(value) is OrderedDict else {}
        for key, part in value.items():
            where = f"{path}.{key}" if path else str(key)
            plain[self._key(key, where)] = self.convert(part, where, depth + 1)
        metadata = getattr(value, "_metadata", None)
        if type(value) is OrderedDict and metadata is not None:
            holder: Any = plain  # version numbers that a state_dict carries for its modules
            holder._metadata = self.convert(metadata, f"{path}._metadata", depth + 1)
        return plain

    def _key(self, key: Any, path: str) -> Any:
        key = key.item() if isinstance(key, np.generic) else key
        if type(key) in ATOMS or (isinstance(key, tuple) and all(type(part) in ATOMS for part in key)):
            return key
        raise CheckpointError(
            f"a checkpoint cannot hold the key '{path}': a {type(key).__name__} is not plain data"
        )

    def _other(self, value: Any, path: str) -> Any:
        if isinstance(value, np.generic):
            return self.convert(value.item(), path, MAX_DEPTH)
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            return torch.from_numpy(np.ascontiguousarray(value).copy())
        if isinstance(value, PurePath):
            return str(value)
        for base in (int, float, str):  # enumerations and other dressed-up numbers and strings
            if isinstance(value, base):
                return base(value)
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise CheckpointError(
            f"a checkpoint cannot hold '{path}': {kind} is neither a tensor nor plain data"
            " (numbers, strings, lists, dicts)"
        )
