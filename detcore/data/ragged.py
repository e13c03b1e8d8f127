"""Lists of unequal length in two flat arrays: the values and where each list starts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


def flat_positions(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the values of some lists, and the offsets of the new lists.

    Args:
        offsets: int64 array (L + 1,), list ``i`` holds the values ``offsets[i]:offsets[i + 1]``.
        rows: int64 array (R,), the lists to keep, in their new order.

    Returns:
        ``positions`` (V,) into the flat values and ``new_offsets`` (R + 1,).
    """
    lengths = offsets[rows + 1] - offsets[rows]
    new_offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=new_offsets[1:])
    positions = np.repeat(offsets[rows] - new_offsets[:-1], lengths) + np.arange(new_offsets[-1])
    return positions, new_offsets


class Ragged:
    """``L`` lists of unequal length as two arrays, so that forked workers share them untouched.

    Args:
        values: Array (V, ...), all lists one after the other.
        offsets: int64 array (L + 1,); list ``i`` is ``values[offsets[i]:offsets[i + 1]]``.
    """

    def __init__(self, values: np.ndarray, offsets: np.ndarray) -> None:
        self.values = values
        self.offsets = offsets

    @classmethod
    def from_bytes(cls, items: Iterable[bytes]) -> Ragged:
        """Byte strings, one list each."""
        buffer, ends = bytearray(), [0]
        for item in items:
            buffer += item
            ends.append(len(buffer))
        return cls(np.frombuffer(bytes(buffer), np.uint8), np.asarray(ends, np.int64))

    @classmethod
    def from_texts(cls, items: Iterable[str]) -> Ragged:
        """Strings as UTF-8; `surrogateescape` keeps file names that are no valid UTF-8."""
        return cls.from_bytes(item.encode("utf-8", "surrogateescape") for item in items)

    @classmethod
    def concatenated(cls, parts: Sequence[Ragged]) -> Ragged:
        """The lists of several, one after the other; at least one."""
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        return cls(np.concatenate([part.values for part in parts]), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def text(self, row: int) -> str:
        """The list as a string, for lists made by `from_texts`."""
        return self[row].tobytes().decode("utf-8", "surrogateescape")

    def take(self, rows: np.ndarray) -> Ragged:
        """The chosen lists, copied, in the order of ``rows`` (int64 (R,))."""
        positions, offsets = flat_positions(self.offsets, rows)
        return Ragged(self.values[positions], offsets)

    @property
    def nbytes(self) -> int:
        """Size in memory in bytes."""
        return int(self.values.nbytes + self.offsets.nbytes)
