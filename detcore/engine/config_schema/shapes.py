"""Which JSON values an annotation allows."""

import dataclasses
import enum
import os
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from numbers import Number
from typing import Annotated, Any, Literal, NotRequired, Required, Union

from detcore.registry.signatures import Mark, slot_of

_SCALARS = {
    str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null", Number: "number",
}  # fmt: skip
_PARENTS = (list, tuple, set, frozenset, Sequence, Set, Collection, Iterable)


@dataclasses.dataclass(frozen=True)
class Shape:
    """The JSON values that may stand for an argument.

    Attributes:
        anything: Every value; the other attributes then only describe some of them.
        types: JSON types: ``"integer"``, ``"array"``, ...
        literals: Single values, besides those types.
        items: The items of an array; None where they are not known.
        length: Least and greatest number of items, None for any.
        entries: The values of an object without ``type``; None where they are not known.
    """

    anything: bool = False
    types: frozenset[str] = frozenset()
    literals: tuple[Any, ...] = ()
    items: "Shape | None" = None
    length: tuple[int, int] | None = None
    entries: "Shape | None" = None

    def __or__(self, other: "Shape") -> "Shape":
        arrays = [each for each in (self, other) if "array" in each.types]
        objects = [each for each in (self, other) if "object" in each.types]
        return Shape(
            self.anything or other.anything,
            self.types | other.types,
            self.literals + other.literals,
            _joined([each.items for each in arrays]),
            _span([each.length for each in arrays]),
            _joined([each.entries for each in objects]),
        )


ANYTHING = Shape(anything=True)
NOTHING = Shape()
"""Of classes whose objects no file can hold, such as tensors."""


def shape_of(hint: Any, *, marked: bool = False) -> Shape:
    """The values that an annotation allows.

    Parts and settings are objects; which ones is told by the argument's
    :class:`~detcore.registry.signatures.Slot`. Of an annotation that tells nothing, everything is allowed.

    Args:
        hint: The annotation.
        marked: Whether a mark around it says that its classes are parts.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return shape_of(arguments[0], marked=marked or any(isinstance(each, Mark) for each in arguments[1:]))
    if origin in (Required, NotRequired):
        return shape_of(arguments[0], marked=marked)
    if origin is Union or origin is types.UnionType:
        return _union(shape_of(each, marked=marked) for each in arguments)
    if origin is Literal:
        known = tuple(each for each in arguments if not isinstance(each, enum.Enum | bytes))
        return Shape(literals=known)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return Shape(types=frozenset({"object"}), entries=shape_of(arguments[-1], marked=marked))
    if isinstance(origin, type) and (issubclass(origin, Sequence | Set) or origin in _PARENTS):
        return _array(origin, arguments, marked)
    if hasattr(hint, "__value__"):  # type X = ...
        return shape_of(hint.__value__, marked=marked)
    if hasattr(hint, "__supertype__"):  # NewType
        return shape_of(hint.__supertype__, marked=marked)
    return _of_class(origin if isinstance(origin, type) else hint, marked)


def widened(shape: Shape, default: Any) -> Shape:
    """The shape with the type of an argument's default, which annotations forget (``x: int = None``)."""
    kind = json_type(default)
    known = shape.types | ({"integer"} if "number" in shape.types else set())
    if shape.anything or kind is None or kind in known or default in shape.literals:
        return shape
    return shape | Shape(types=frozenset({kind}))


def json_type(value: Any) -> str | None:
    """The JSON type of a plain value; None for what no file can hold."""
    if isinstance(value, dict):
        return "object"
    if isinstance(value, list | tuple | set):
        return "array"
    return _SCALARS.get(type(value))


def _of_class(hint: Any, marked: bool) -> Shape:
    if not isinstance(hint, type) or hint in (Any, object):
        return ANYTHING
    if hint in _SCALARS:
        return Shape(types=frozenset({_SCALARS[hint]}))
    if hint in _PARENTS:
        return Shape(types=frozenset({"array"}))
    if issubclass(hint, os.PathLike):
        return Shape(types=frozenset({"string"}))
    if marked or issubclass(hint, Mapping) or slot_of(hint).takes_parts:
        return Shape(types=frozenset({"object"}))
    # A user's component may make something of a dict or a name for other classes, but not tensors and arrays.
    return NOTHING if hint.__module__.partition(".")[0] in ("torch", "numpy") else ANYTHING


def _array(origin: type, arguments: tuple[Any, ...], marked: bool) -> Shape:
    inner = [shape_of(each, marked=marked) for each in arguments if each is not Ellipsis]
    fixed = origin is tuple and inner and len(inner) == len(arguments)
    length = (len(inner), len(inner)) if fixed else None
    return Shape(types=frozenset({"array"}), items=_union(inner) if inner else None, length=length)


def _union(shapes: Iterable[Shape]) -> Shape:
    joined = NOTHING
    for each in shapes:
        joined |= each
    return joined


def _joined(shapes: list[Shape | None]) -> Shape | None:
    """Of all; None as soon as one of them is not known."""
    known = [each for each in shapes if each is not None]
    return _union(known) if known and len(known) == len(shapes) else None


def _span(lengths: list[tuple[int, int] | None]) -> tuple[int, int] | None:
    known = [each for each in lengths if each is not None]
    if not known or len(known) < len(lengths):
        return None
    return min(least for least, _ in known), max(most for _, most in known)
