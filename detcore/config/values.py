"""What a config is made of while it is read, and the limits that keep a stranger's file harmless."""

from collections.abc import Iterable
from typing import Any

from detcore.errors import ConfigError

MAX_DEPTH = 100
"""Levels of nesting of a value; real configs stay below 20."""
MAX_BITS = 1024
"""Size of an integer; keeps powers, shifts and their texts small."""

KEY_COST = 1000
_FAR = 1 << 60

SCALARS = frozenset({str, int, float, bool, type(None)})

Origin = tuple[str, int]
"""File and line (0 where a format knows no lines) of the statement that set a key."""


class ConfigFileError(ConfigError):
    """A config error that knows where it stands; its message starts with ``file:line: ``.

    Args:
        file: The file as the user would name it.
        line: The line, counted from 1; 0 where it is not known.
        reason: What is wrong, and what would be right.
    """

    def __init__(self, file: str, line: int, reason: str) -> None:
        super().__init__(f"{file}:{line}: {reason}" if line else f"{file}: {reason}")
        self.file = file
        self.line = line
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, int, str]]:
        return type(self), (self.file, self.line, self.reason)


class LimitError(Exception):
    """A config asks for more work, memory or depth than it may have; the caller adds file and line."""


class Budget:
    """Work that one whole load (a config and all its bases) may do.

    One unit pays for one step of the evaluator, one element of a container or one character of a
    string, so time and memory are bounded together: half a million units are well below a second and
    a few tens of megabytes; the largest config of MMDetection takes 34 thousand.

    Args:
        units: How much there is to spend.
    """

    __slots__ = ("left", "units")

    def __init__(self, units: int = 500_000) -> None:
        self.units = units
        self.left = units

    def charge(self, amount: int) -> None:
        """Pay for a piece of work, before doing it.

        Raises:
            LimitError: There is not enough left.
        """
        self.left -= amount
        if self.left < 0:
            raise LimitError(
                f"the config does too much work or makes too large values (limit {self.units:,} units)"
            )


class Table(dict[Any, Any]):
    """A dict that a config file wrote, with the origin of each key where it is known."""

    __slots__ = ("lines",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lines: dict[Any, Origin] = {}


def measure(value: Any, budget: Budget) -> None:
    """Pay for a walk through a value, shared parts counted as often as they are met.

    Comparing, hashing and printing walk so; this walk is the one that notices cycles, bombs of
    shared lists and nesting that would overflow the interpreter's own stack.

    Args:
        value: Anything that an evaluator's expression gave.
        budget: Pays a unit an element and a unit a character.

    Raises:
        LimitError: Too large or too deep.
    """
    if type(value) in SCALARS:
        budget.charge(len(value) if type(value) is str else 1)
        return
    stack: list[tuple[Any, int]] = [(value, 0)]
    while stack:
        item, depth = stack.pop()
        if type(item) in SCALARS:
            if type(item) is str:
                budget.charge(len(item))
        elif isinstance(item, (dict, list, tuple, set)):
            if depth >= MAX_DEPTH:
                raise LimitError(f"a value is nested more than {MAX_DEPTH} levels deep, or holds itself")
            parts: Iterable[Any] = item
            if isinstance(item, dict):
                budget.charge(len(item))
                parts = (part for pair in item.items() for part in pair)
            budget.charge(len(item))
            stack.extend((part, depth + 1) for part in parts)
        elif isinstance(item, range):
            budget.charge(1)


def a_kind(value: Any) -> str:
    """``a list``, ``an int``: what a value is, for messages."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def check_key(key: Any, budget: Budget) -> None:
    """Pay for a dict key or a set's member, and refuse what is no plain constant.

    Strings hash by a secret; tuples and far-off numbers can be chosen so that all fall into one place of the
    table, which then takes the square of their number. So these cost as much as a hundred of them would.

    Raises:
        ConfigError: It is something else than a string, number, bool, None or a tuple of them.
        LimitError: Too many of the costly kind.
    """
    kind = type(key)
    if kind is str or kind is bool or key is None or (kind is int and -_FAR < key < _FAR):
        return
    if kind is int or kind is float or (kind is tuple and all(type(part) in SCALARS for part in key)):
        budget.charge(0 if kind is float and 1e-6 < abs(key) < 1e15 else KEY_COST)
        return
    raise ConfigError(f"a key must be a string, a number or a tuple of them, got {type(key).__name__}")
