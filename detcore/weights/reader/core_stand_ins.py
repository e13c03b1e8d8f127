"""What is made in place of classes of Python and numpy that weight files hold beside their tensors."""

from __future__ import annotations

import datetime
import math
import re
from typing import Any

import numpy as np
import torch

from detcore.weights.reader.problems import DamagedError, RefusedError
from detcore.weights.reader.stand_in import MappingStandIn, StandIn

_NUMBER = re.compile(r"b1|[iu][1248]|f[248]|c8|c16")
_TEXT = re.compile(r"[SU]([1-9]\d{0,6})")
_MAX_TEXTS = 1 << 20


class NameOnly(StandIn):
    """A class that the file names beside its data, as the type of an array or of what is missing."""

    __slots__ = ()


class Attribute(StandIn):
    """What ``getattr`` would find; nothing is looked up."""

    __slots__ = ()

    def plain(self) -> Any:
        """The attribute's name, as it stands for the function of a schedule."""
        if len(self.arguments) != 2 or not isinstance(self.arguments[1], str):
            raise DamagedError("an attribute has no name")
        return self.arguments[1]


class EmptyBytes:
    """``bytes()``, as protocol 2 writes them."""

    def __new__(cls, *arguments: Any) -> bytes:  # type: ignore[misc]
        """No bytes."""
        return b""


class FrozenSet:
    """A set that does not change: a set."""

    def __new__(cls, items: Any = ()) -> set[Any]:  # type: ignore[misc]
        """The set of a list's items."""
        return set(items) if type(items) is list else set()


class Deque:
    """A deque: a list, which torch then fills."""

    def __new__(cls, items: Any = (), *length: Any) -> list[Any]:  # type: ignore[misc]
        """The list of what it began with."""
        return list(items) if type(items) in (list, tuple) else []


class Slice(StandIn):
    """A slice: its three numbers."""

    __slots__ = ()

    def plain(self) -> Any:
        """``(start, stop, step)``."""
        return self.arguments


class Path(StandIn):
    """A path: its text."""

    __slots__ = ()

    def plain(self) -> Any:
        """The parts, joined."""
        if not all(type(part) is str for part in self.arguments):
            raise DamagedError("a path has parts that are no text")
        first, *parts = self.arguments or (".",)
        return "/".join([first.rstrip("/"), *parts]) if parts else first


class Moment(StandIn):
    """A date or time: its text as of ISO 8601."""

    __slots__ = ()
    made: type = datetime.datetime

    def plain(self) -> Any:
        """``'2024-05-17T09:30:00'``."""
        parts = [part.plain_zone() if isinstance(part, TimeZone) else part for part in self.arguments]
        first = parts[0] if parts else None
        if not isinstance(first, bytes) or not all(isinstance(zone, datetime.tzinfo) for zone in parts[1:]):
            raise DamagedError("a date is not written as Python writes dates")
        try:
            return self.made(*parts).isoformat()
        except (TypeError, ValueError) as error:
            raise DamagedError(f"a date is none: {error}") from error


class Date(Moment):
    """A day."""

    __slots__ = ()
    made = datetime.date


class Time(Moment):
    """A time of day."""

    __slots__ = ()
    made = datetime.time


class TimeDelta(StandIn):
    """A span of time: its seconds."""

    __slots__ = ()

    def plain(self) -> Any:
        """Seconds."""
        if len(self.arguments) != 3 or not all(type(part) is int for part in self.arguments):
            raise DamagedError("a span of time is not written as days, seconds and microseconds")
        try:
            return datetime.timedelta(*self.arguments).total_seconds()
        except OverflowError as error:
            raise DamagedError(f"a span of time is none: {error}") from error


class TimeZone(StandIn):
    """A zone at a fixed distance from UTC: its name."""

    __slots__ = ()

    def plain(self) -> Any:
        """``'UTC+02:00'``."""
        return str(self.plain_zone())

    def plain_zone(self) -> datetime.timezone:
        """The zone itself."""
        offset = self.arguments[0] if self.arguments else None
        if not isinstance(offset, TimeDelta):
            raise DamagedError("a time zone has no distance from UTC")
        try:
            return datetime.timezone(datetime.timedelta(seconds=offset.plain()))
        except ValueError as error:
            raise DamagedError(f"a time zone is none: {error}") from error


class Namespace(StandIn):
    """Options of a command line: a dict."""

    __slots__ = ()

    def plain(self) -> Any:
        """Name -> value."""
        return self.named_state()


class NumpyType(StandIn):
    """The type of a numpy array's elements."""

    __slots__ = ()

    def plain(self) -> Any:
        """Its name."""
        return self.dtype().name

    def dtype(self) -> np.dtype[Any]:
        """The type, of numbers or of text; anything else is refused."""
        code = self.arguments[0] if self.arguments else None
        if not isinstance(code, str) or not (_NUMBER.fullmatch(code) or _TEXT.fullmatch(code)):
            shown = code[:40] if isinstance(code, str) else type(code).__name__
            raise RefusedError(f"it holds numpy values of type {shown!r}: neither numbers nor text")
        order = self.state[1] if isinstance(self.state, tuple) and len(self.state) > 1 else "|"
        if order not in ("<", ">", "|", "="):
            raise DamagedError("numpy values have no byte order")
        if isinstance(self.state, tuple) and any(part is not None for part in self.state[2:5]):
            raise RefusedError("it holds numpy values of several fields")
        return np.dtype(order + code)


class NumpyScalar(StandIn):
    """A numpy number: the number."""

    __slots__ = ()

    def plain(self) -> Any:
        """A number of Python's own, or text."""
        kind, raw = self.arguments if len(self.arguments) == 2 else (None, None)
        if not isinstance(kind, NumpyType):
            raise DamagedError("a numpy number has no type")
        dtype = kind.dtype()
        if not isinstance(raw, bytes) or len(raw) != dtype.itemsize:
            raise DamagedError(f"a numpy number of type {dtype} has not {dtype.itemsize} bytes")
        return _items(np.frombuffer(raw, dtype))[0]


class NumpyArray(StandIn):
    """A numpy array: a tensor, or a list where it holds text."""

    __slots__ = ()

    def plain(self) -> Any:
        """``Tensor[shape]`` on the CPU."""
        state = self.state
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], NumpyType):
            raise DamagedError("a numpy array has no shape, type and values")
        _, shape, kind, by_column, raw = state
        dtype = kind.dtype()
        if not isinstance(shape, tuple) or not all(type(part) is int and part >= 0 for part in shape):
            raise DamagedError("a numpy array has no shape")
        if not isinstance(raw, bytes) or len(raw) != math.prod(shape) * dtype.itemsize or len(shape) > 32:
            raise DamagedError("a numpy array has more or fewer values than its shape says")
        array = np.frombuffer(raw, dtype).reshape(shape, order="F" if by_column else "C")
        if dtype.kind not in "SU":
            return torch.from_numpy(np.array(array, dtype.newbyteorder("="), order="C"))
        if array.size > _MAX_TEXTS:
            raise RefusedError(f"it holds an array of {array.size} texts")
        return _items(array)


def _items(array: np.ndarray[Any, Any]) -> Any:
    try:
        return array.tolist()
    except (ValueError, SystemError) as error:  # text that is none
        raise DamagedError(f"a numpy array holds no text: {error}") from error


def _under(modules: tuple[str, ...], names: dict[str, type]) -> dict[str, type]:
    return {f"{module}.{name}": stand_in for module in modules for name, stand_in in names.items()}


_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path", "PurePath")
_NAMES_ONLY = ("int", "float", "str", "bool", "list", "tuple", "dict", "object")

CORE_STAND_INS: dict[str, type] = {
    **_under(("builtins",), dict.fromkeys(_NAMES_ONLY, NameOnly)),
    **_under(
        ("builtins",), {"bytes": EmptyBytes, "frozenset": FrozenSet, "slice": Slice, "getattr": Attribute}
    ),
    **_under(("collections",), {"defaultdict": MappingStandIn, "deque": Deque}),
    **_under(("pathlib", "pathlib._local"), dict.fromkeys(_PATHS, Path)),
    **_under(("datetime",), {"datetime": Moment, "date": Date, "time": Time}),
    **_under(("datetime",), {"timedelta": TimeDelta, "timezone": TimeZone}),
    **_under(("numpy.core.multiarray", "numpy._core.multiarray"), {"scalar": NumpyScalar}),
    **_under(("numpy.core.multiarray", "numpy._core.multiarray"), {"_reconstruct": NumpyArray}),
    **_under(("numpy",), {"dtype": NumpyType, "ndarray": NameOnly}),
    **_under(("argparse",), {"Namespace": Namespace}),
    **_under(("yacs.config",), {"CfgNode": MappingStandIn}),
}
"""Name as a file writes it -> what is made instead."""
