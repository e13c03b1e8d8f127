"""What two configs differ in, path by path; lists are aligned, so that an inserted item is one change."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from detcore.config.display import one_line
from detcore.config.origins import Entry, holds_dicts

_SHORT = 8
"""Lists of plain values up to this length are compared as one value, longer ones item by item."""
_MAX_PAIRS = 250_000
"""Pairs of items that an alignment looks at; longer lists are compared position by position."""
_PLAIN = {dict, list, tuple, set, range, str, int, float, bool, type(None)}
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass(frozen=True, slots=True)
class Change:
    """One difference.

    Attributes:
        old: The value in the first config; None where it has none.
        new: The value in the second config; None where it has none.
    """

    old: Entry | None
    new: Entry | None

    @property
    def kind(self) -> Literal["added", "removed", "changed"]:
        """Which of the two has a value."""
        if self.old is None:
            return "added"
        return "removed" if self.new is None else "changed"


def differences(old: Entry, new: Entry) -> Iterator[Change]:
    """Everything in which two values differ, in the order of the first.

    Types count: ``1``, ``1.0`` and ``True`` differ, and so do a list and a tuple. The order of keys does not.
    In lists that hold dicts, and in long lists, items are aligned: what is equal or of one ``type`` faces one
    another, the rest is added or removed.
    """
    if same(old.value, new.value):
        return
    if isinstance(old.value, dict) and isinstance(new.value, dict):
        yield from _of_dicts(old, new)
    elif type(old.value) is type(new.value) and type(old.value) in (list, tuple) and _by_item(old, new):
        yield from _of_lists(old, new)
    else:
        yield Change(old, new)


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal, types included, at every level."""
    if isinstance(left, dict) and isinstance(right, dict):
        others = {(type(key), key): value for key, value in right.items()}
        return len(left) == len(right) and all(
            (type(key), key) in others and same(value, others[type(key), key]) for key, value in left.items()
        )
    kinds = {type(left), type(right)}
    if kinds & _PLAIN and len(kinds) > 1:
        return False
    if type(left) in (list, tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if type(left) in (str, int):
        return bool(left == right)
    # Of floats nan equals nan here. A trusted config's own classes and objects are made anew by each load.
    return _ADDRESS.sub("", one_line(left)) == _ADDRESS.sub("", one_line(right))


def _of_dicts(old: Entry, new: Entry) -> Iterator[Change]:
    others = {(type(key), key): entry for key, entry in new.children()}
    for key, entry in old.children():
        other = others.pop((type(key), key), None)
        if other is None:
            yield Change(entry, None)
        else:
            yield from differences(entry, other)
    for entry in others.values():
        yield Change(None, entry)


def _by_item(old: Entry, new: Entry) -> bool:
    return holds_dicts(old.value) or holds_dicts(new.value) or max(len(old.value), len(new.value)) > _SHORT


def _of_lists(old: Entry, new: Entry) -> Iterator[Change]:
    lefts, rights = [[each for _, each in side.children()] for side in (old, new)]
    first, last = _common_ends(lefts, rights)
    lefts, rights = lefts[first : len(lefts) - last], rights[first : len(rights) - last]
    at_left = at_right = 0
    for i, j in [*_aligned(lefts, rights), (len(lefts), len(rights))]:
        yield from _unaligned(lefts[at_left:i], rights[at_right:j])
        if i < len(lefts):
            yield from differences(lefts[i], rights[j])
        at_left, at_right = i + 1, j + 1


def _common_ends(lefts: list[Entry], rights: list[Entry]) -> tuple[int, int]:
    """How many items are the same at the beginning, and then at the end."""
    shortest = min(len(lefts), len(rights))
    first = 0
    while first < shortest and same(lefts[first].value, rights[first].value):
        first += 1
    last = 0
    while last < shortest - first and same(lefts[-1 - last].value, rights[-1 - last].value):
        last += 1
    return first, last


def _unaligned(lefts: list[Entry], rights: list[Entry]) -> Iterator[Change]:
    """Items that face none of the other side: plain values of an equally long stretch were replaced."""
    plain = not any(isinstance(each.value, dict) for each in (*lefts, *rights))
    if plain and len(lefts) == len(rights):
        yield from map(Change, lefts, rights)
        return
    yield from (Change(each, None) for each in lefts)
    yield from (Change(None, each) for each in rights)


def _aligned(lefts: list[Entry], rights: list[Entry]) -> list[tuple[int, int]]:
    """Pairs of positions that face each other, ascending, with the highest sum of likenesses."""
    if len(lefts) * len(rights) > _MAX_PAIRS:
        shortest = min(len(lefts), len(rights))
        return [(i, i) for i in range(shortest)]
    best = [[0.0] * (len(rights) + 1) for _ in range(len(lefts) + 1)]
    like = [[_likeness(left.value, right.value) for right in rights] for left in lefts]
    for i in reversed(range(len(lefts))):
        for j in reversed(range(len(rights))):
            facing = best[i + 1][j + 1] + like[i][j] if like[i][j] else 0.0
            best[i][j] = max(facing, best[i + 1][j], best[i][j + 1])
    pairs = []
    i = j = 0
    while i < len(lefts) and j < len(rights):
        if like[i][j] and best[i][j] == best[i + 1][j + 1] + like[i][j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs


def _likeness(left: Any, right: Any) -> float:
    """3 for equal values; 1 to 2 for dicts of one ``type``, more where more of their keys agree; else 0."""
    if same(left, right):
        return 3.0
    if isinstance(left, dict) and isinstance(right, dict):
        if not same(left.get("type"), right.get("type")):
            return 0.0
        equal = sum(1 for key in left if key in right and same(left[key], right[key]))
        return 1.0 + equal / max(len(left), len(right), 1)
    both_lists = type(left) in (list, tuple) and type(right) is type(left)
    return 1.0 if both_lists and (holds_dicts(left) or holds_dicts(right)) else 0.0
