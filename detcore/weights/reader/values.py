"""What the check of a pickle knows of the values in it, and how much a file may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from detcore.weights.reader.problems import DamagedError, RefusedError

MAX_OPERATIONS = 3_000_000
"""Steps of the pickle machine in one file: some thirty times what a detector with its optimiser needs."""
MAX_EXPANDED = 1 << 26
"""Elements that tensors of one file may have beyond what it stores for them (expanded ones)."""
_MAX_KEY_PARTS = 16
_MAX_KEY_NUMBER = 1 << 60  # beyond it, numbers can be chosen that fall onto one hash


@dataclass(slots=True, frozen=True)
class Named:
    """A class or function that the file names, ``'torch.float32'``; nothing is imported."""

    name: str


@dataclass(slots=True, eq=False)
class Made:
    """What calling something would make, so far as later instructions depend on it."""

    name: str
    filled: bool = False


@dataclass(slots=True, frozen=True)
class Storage:
    """Memory of tensors: ``num`` elements of ``itemsize`` bytes, which the file is known to hold."""

    dtype: str
    itemsize: int
    num: int


class Budget:
    """What one file may still cost.

    Args:
        size: Of the file, in bytes.
    """

    def __init__(self, size: int) -> None:
        self.operations = MAX_OPERATIONS
        self.copied = 4 * size + (1 << 20)
        self.expanded = MAX_EXPANDED

    def work(self, steps: int) -> None:
        """Take steps of the pickle machine, or elements that it copies."""
        self.operations -= steps
        if self.operations < 0:
            raise RefusedError(f"it takes more than {MAX_OPERATIONS} steps to read")

    def copy(self, num_bytes: int) -> None:
        """Take bytes of text or arrays that are copied."""
        self.copied -= num_bytes
        if self.copied < 0:
            raise RefusedError("it unpacks to many times its own size")

    def expand(self, num_elements: int) -> None:
        """Take elements that have no memory of their own."""
        self.expanded -= num_elements
        if self.expanded < 0:
            raise RefusedError(f"its tensors have {MAX_EXPANDED} elements more than it stores")


def require_key(key: Any) -> None:
    """Keys of dicts are plain and flat: hashing nested ones can take forever."""
    parts = key if type(key) is tuple else (key,)
    if len(parts) > _MAX_KEY_PARTS:
        raise RefusedError(f"a key of a dict has {len(parts)} parts")
    for part in parts:
        if type(part) is Made and part.name in NUMBERS:
            continue
        if type(part) not in (str, int, float, bool, bytes, type(None)):
            raise RefusedError(f"a key of a dict is {describe(part)}")
        if type(part) is int and abs(part) >= _MAX_KEY_NUMBER:
            raise RefusedError("a key of a dict is a number of more than 60 bits")


def require(condition: bool, wrong: str) -> None:
    """Raise DamagedError with these words unless the condition holds."""
    if not condition:
        raise DamagedError(wrong)


def describe(value: Any) -> str:
    """A value of the check in words."""
    if isinstance(value, Named):
        return value.name
    if isinstance(value, Made):
        return f"what {value.name} makes"
    return f"a {type(value).__name__}"


ARRAYS = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
NUMBERS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
