"""The calls by which a file rebuilds its tensors, checked before torch makes them.

torch enlarges a storage that is too small for its tensor, with whatever lay in that memory; here, a tensor
must lie within what the file stores for it.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from detcore.weights.reader.problems import RefusedError
from detcore.weights.reader.values import Budget, Made, Named, Storage, require

TENSOR = "a tensor"
_MAX_DIMENSIONS = 64
_ODD = ("q", "bits", "int1", "int2", "int3", "int4", "int5", "int6", "int7", "bcomplex", "float4")
_LAYOUTS = ("torch.sparse_coo",)


def _dtypes() -> dict[str, int]:
    """Name -> bytes an element, of the types of elements that tensors of weights have."""
    found = {str(value): value.itemsize for value in vars(torch).values() if isinstance(value, torch.dtype)}
    whole = {f"torch.{sign}int{bits}" for sign in ("", "u") for bits in (16, 32, 64)}
    return {
        name: size
        for name, size in found.items()
        if name in whole or not name.removeprefix("torch.").removeprefix("u").startswith(_ODD)
    }


DTYPES = _dtypes()

_KINDS = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64",
    "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
    "ComplexDouble": "complex128", "ComplexFloat": "complex64",
}  # fmt: skip
UNTYPED = "torch.storage.UntypedStorage"
STORAGES = {f"torch.{kind}Storage": f"torch.{dtype}" for kind, dtype in _KINDS.items()} | {UNTYPED: UNTYPED}
"""Class of a storage -> type of its elements."""


def rebuild(budget: Budget, arguments: tuple[Any, ...]) -> Made:
    """``torch._utils._rebuild_tensor``: storage, offset, size, stride."""
    require(len(arguments) == 4, "a tensor has no storage, offset, size and stride")
    storage = _storage(arguments[0])
    require(storage.dtype != UNTYPED, "a tensor has no type of elements")
    _geometry(budget, storage.num, *arguments[1:])
    return Made(TENSOR)


def rebuild_v2(budget: Budget, arguments: tuple[Any, ...]) -> Made:
    """The same with ``requires_grad``, hooks, and perhaps the flags of a complex tensor."""
    require(len(arguments) in (6, 7), "a tensor is described by six or seven values")
    _flags(*arguments[4:])
    return rebuild(budget, arguments[:4])


def rebuild_v3(budget: Budget, arguments: tuple[Any, ...]) -> Made:
    """The same over bytes, with the type of elements."""
    require(len(arguments) in (7, 8), "a tensor is described by seven or eight values")
    dtype = arguments[6]
    require(isinstance(dtype, Named) and dtype.name in DTYPES, "a tensor has no type of elements")
    _flags(arguments[4], arguments[5], *arguments[7:])
    storage = _storage(arguments[0])
    _geometry(budget, storage.num * storage.itemsize // DTYPES[dtype.name], *arguments[1:4])
    return Made(TENSOR)


def rebuild_parameter(budget: Budget, arguments: tuple[Any, ...]) -> Made:
    """A parameter: its tensor, ``requires_grad``, hooks."""
    require(len(arguments) == 3 and _is_tensor(arguments[0]), "a parameter has no tensor")
    _flags(*arguments[1:])
    return Made(TENSOR)


def rebuild_sparse(budget: Budget, arguments: tuple[Any, ...]) -> Made:
    """A sparse tensor in coordinates: its layout, and indices, values, size; torch checks the indices."""
    data: Any = arguments[1] if len(arguments) == 2 else ()
    require(
        isinstance(data, tuple) and len(data) in (3, 4), "a sparse tensor has no indices, values and size"
    )
    require(isinstance(arguments[0], Made) and arguments[0].name in _LAYOUTS, "a sparse tensor has no layout")
    require(_is_tensor(data[0]) and _is_tensor(data[1]), "a sparse tensor has no indices or values")
    _sizes(data[2])
    return Made("a sparse tensor")


def layout(budget: Budget, arguments: tuple[Any, ...]) -> Made:
    """The layout of a sparse tensor."""
    if arguments not in tuple((name,) for name in _LAYOUTS):
        raise RefusedError(f"it holds tensors of a layout other than {' and '.join(_LAYOUTS)}")
    return Made(arguments[0])


def size(budget: Budget, arguments: tuple[Any, ...]) -> tuple[int, ...]:
    """``torch.Size``."""
    sizes: tuple[int, ...] = _sizes(*arguments)
    return sizes


def _storage(value: Any) -> Storage:
    require(isinstance(value, Storage), "a tensor has no storage")
    storage: Storage = value
    return storage


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Made) and value.name == TENSOR


def _geometry(budget: Budget, num: int, offset: Any, sizes: Any, strides: Any) -> None:
    """The elements of a tensor lie among the ``num`` of its storage."""
    sizes, strides = _sizes(sizes), _sizes(strides)
    require(len(sizes) == len(strides), "a tensor has as many strides as it has no dimensions")
    require(type(offset) is int and offset >= 0, "a tensor begins before its storage")
    last = offset + sum((length - 1) * stride for length, stride in zip(sizes, strides, strict=True))
    require(0 in sizes or last < num, "a tensor lies outside of its storage")
    require(offset <= num, "a tensor lies outside of its storage")
    budget.expand(max(0, math.prod(sizes) - num))


def _sizes(value: Any = None) -> Any:
    require(type(value) is tuple and len(value) <= _MAX_DIMENSIONS, "the size of a tensor is no tuple")
    require(all(type(part) is int and part >= 0 for part in value), "the size of a tensor is no numbers")
    require(math.prod(part or 1 for part in value) < 1 << 62, "the size of a tensor overflows")
    return value


def _flags(requires_grad: Any, hooks: Any, metadata: Any = None) -> None:
    require(type(requires_grad) is bool, "a tensor does not say whether it has gradients")
    empty = hooks is None or (isinstance(hooks, Made) and hooks.name == "collections.OrderedDict")
    require(empty and not getattr(hooks, "filled", False), "a tensor has hooks")
    known = metadata is None or (type(metadata) is dict and metadata.keys() <= {"conj", "neg"})
    require(known, "a tensor has flags that torch does not know")
