"""Files of torch before 1.6: five pickles in a row, then the bytes of the storages."""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

from detcore.errors import CheckpointError
from detcore.weights.reader.machine import Machine
from detcore.weights.reader.names import Names
from detcore.weights.reader.problems import DamagedError, RefusedError
from detcore.weights.reader.tensors import DTYPES, STORAGES
from detcore.weights.reader.values import Budget, Named, Storage, require

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


def check_stream(file: BinaryIO, size: int, names: Names) -> None:
    """Raise unless the file is one of torch before 1.6 that holds data and nothing else.

    Args:
        file: Open for reading, at its beginning.
        size: Of the file, in bytes.
        names: Learns which stand-ins are needed.

    Raises:
        DamagedError: It is cut off or changed, or something else.
        RefusedError: It asks for more than data.
    """
    budget = Budget(size)
    require(_is_magic(file, size, names, budget), "it was not written by torch.save")
    protocol = Machine(file, size, names, budget).follow()
    require(
        type(protocol) is int and protocol == _PROTOCOL, "it is written in a protocol that torch never had"
    )
    Machine(
        file, size, names, budget
    ).follow()  # about the machine that wrote it; torch reads it, uses nothing
    storages = _Storages(size)
    Machine(file, size, names, budget, storages).follow()
    _skip_storages(file, size, storages.sizes, Machine(file, size, names, budget).follow())


def _is_magic(file: BinaryIO, size: int, names: Names, budget: Budget) -> bool:
    try:
        magic = Machine(file, size, names, budget).follow()
    except RefusedError:
        raise
    except CheckpointError:
        return False
    return type(magic) is int and magic == _MAGIC


class _Storages:
    """Gives the storages that the pickle refers to; that their bytes are there is checked behind it."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._seen: dict[str | int, Storage] = {}
        self.sizes: dict[str | int, tuple[int, int]] = {}

    def __call__(self, identity: Any) -> Storage:
        require(type(identity) is tuple and len(identity) == 6, "a storage is not described by six values")
        kind, dtype, key, place, num, view = identity
        require(kind == "storage" and type(kind) is str, "a reference in its pickle is to no storage")
        require(isinstance(dtype, Named) and dtype.name in STORAGES, "a storage has no type of elements")
        require(
            type(key) in (str, int) and type(place) is str and type(num) is int,
            "a storage is badly described",
        )
        storage = Storage(STORAGES[dtype.name], DTYPES.get(STORAGES[dtype.name], 1), num)
        require(0 <= num * storage.itemsize <= self._size, "a storage is larger than the file")
        require(self._seen.setdefault(key, storage) == storage, "a storage has two sizes or types")
        self.sizes[key] = (num, storage.itemsize)
        return storage if view is None else self._view(storage, view)

    def _view(self, storage: Storage, view: Any) -> Storage:
        require(type(view) is tuple and len(view) == 3, "a part of a storage is badly described")
        key, offset, num = view
        require(
            type(key) in (str, int) and key not in self.sizes, "a part of a storage has the name of another"
        )
        require(
            type(offset) is int and type(num) is int and min(offset, num) >= 0, "a part of a storage is none"
        )
        require(offset + num <= storage.num, "a part of a storage lies outside of it")
        part = Storage(storage.dtype, storage.itemsize, num)
        require(self._seen.setdefault(key, part) == part, "a part of a storage has two sizes or types")
        return part


def _skip_storages(file: BinaryIO, size: int, sizes: dict[str | int, tuple[int, int]], keys: Any) -> None:
    require(type(keys) is list and all(type(key) in (str, int) for key in keys), "it has no list of storages")
    if len(keys) != len(set(keys)) or set(keys) != set(sizes):
        raise DamagedError("its list of storages is not of those that its pickle uses")
    for key in keys:
        num, itemsize = sizes[key]
        head = file.read(8)
        require(len(head) == 8 and struct.unpack("<q", head)[0] == num, f"the storage {key!r:.40} is cut off")
        require(file.seek(num * itemsize, 1) <= size, f"the storage {key!r:.40} is cut off")
