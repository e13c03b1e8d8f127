"""Data of the instances (boxes, labels, scores, masks, ...) in one image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from detcore.structures.base import BaseDataElement

Index: TypeAlias = int | slice | list[int] | list[bool] | np.ndarray | Tensor


class InstanceData(BaseDataElement):
    """Fields of equal length, one entry an instance; indexing and ``cat`` work on all of them at once.

    Example:
        >>> instances = InstanceData(bboxes=torch.rand(5, 4), labels=torch.zeros(5, dtype=torch.long))
        >>> len(instances[instances.bboxes[:, 0] > 0.5]) <= 5
        True
    """

    def __setattr__(self, name: str, value: Any) -> None:
        length = self._length(name, value)
        for other in self._data_fields:
            if other != name:
                expected = len(getattr(self, other))
                if length != expected:
                    raise ValueError(
                        f"InstanceData.{name} has {length} entries, but {other!r} has {expected}: "
                        "all fields hold one entry an instance"
                    )
                break
        super().__setattr__(name, value)

    @staticmethod
    def _length(name: str, value: Any) -> int:
        try:
            return len(value)
        except TypeError:
            what = "a tensor without dimensions" if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"InstanceData.{name} needs one entry an instance, got {what}") from None

    def __len__(self) -> int:
        for name in self._data_fields:
            return len(getattr(self, name))
        return 0

    def __getitem__(self, item: str | Index) -> Any:
        """One field for a name, else the instances that an index selects (an int keeps a length of one).

        Args:
            item: A field's name; an int; a slice; ints or booleans as list, array ``(K,)`` or tensor ``[K]``.

        Raises:
            IndexError: The index is out of range, or a boolean index has another length than this.
            TypeError: The index is of another type.
        """
        if isinstance(item, str):
            return getattr(self, item)
        index = self._normalised(item)
        selected = self.clone()  # with all fields in place already, storing a cut one is a plain assignment
        positions: np.ndarray | None = None
        for name, value in self.items():
            if isinstance(value, Tensor) or isinstance(index, slice):
                selected._store(name, value[index])
                continue
            if positions is None:
                found = index.nonzero().flatten() if index.dtype == torch.bool else index
                positions = found.cpu().numpy()
            selected._store(name, _pick(value, positions))
        return selected

    def _store(self, name: str, value: Any) -> None:
        """Store a field that was cut from a checked one."""
        BaseDataElement.__setattr__(self, name, value)

    def _normalised(self, item: Index) -> slice | Tensor:
        size = len(self)
        if isinstance(item, slice):
            if item.step is not None and item.step < 0:  # tensors cannot be sliced backwards
                return torch.tensor(range(*item.indices(size)), dtype=torch.long)
            return item
        if isinstance(item, (int, np.integer)) and not isinstance(item, bool):
            if not -size <= item < size:
                raise IndexError(f"index {item} is out of range for {size} instances")
            start = int(item) % size
            return slice(start, start + 1)
        if isinstance(item, (list, np.ndarray)):
            item = torch.as_tensor(np.asarray(item, dtype=np.int64 if len(item) == 0 else None))
        if not isinstance(item, Tensor):
            raise TypeError(
                f"instances are selected by int, slice, list, array or tensor, got {type(item).__name__}"
            )
        if item.dim() != 1:
            raise IndexError(f"an index has one dimension, got shape {tuple(item.shape)}")
        if item.dtype == torch.uint8:  # old masks; as an index uint8 is ambiguous
            item = item.bool()
        if item.dtype == torch.bool:
            if len(item) != size:
                raise IndexError(f"a boolean index of length {len(item)} does not fit {size} instances")
        elif item.dtype.is_floating_point or item.dtype.is_complex:
            raise TypeError(f"an index holds integers or booleans, got {item.dtype}")
        else:
            item = item.long()
        return item

    @staticmethod
    def cat(instances_list: Sequence[InstanceData]) -> InstanceData:
        """All instances of several elements in one, with the metainfo of the first.

        Raises:
            ValueError: The list is empty, or the elements have different fields.
            TypeError: An entry is no InstanceData, or a field's values cannot be joined.
        """
        if len(instances_list) == 0:
            raise ValueError("cat needs at least one InstanceData, got an empty list")
        for entry in instances_list:
            if not isinstance(entry, InstanceData):
                raise TypeError(f"cat joins InstanceData, got {type(entry).__name__}")
        first = instances_list[0]
        names = first.keys()
        for position, entry in enumerate(instances_list):
            if set(entry.keys()) != set(names):
                raise ValueError(
                    f"cat needs equal fields: entry 0 has {sorted(names)}, "
                    f"entry {position} has {sorted(entry.keys())}"
                )
        joined = type(first)(metainfo=first.metainfo)
        for name in names:
            joined._store(name, _join(name, [getattr(entry, name) for entry in instances_list]))
        return joined


def _pick(value: Any, positions: np.ndarray) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(value[i] for i in positions.tolist())
    if isinstance(value, str):
        return "".join(value[i] for i in positions.tolist())
    return value[positions]


def _join(name: str, values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(values)
    if isinstance(first, np.ndarray):
        return np.concatenate(values)
    if isinstance(first, (list, tuple, str)):
        total = first
        for value in values[1:]:
            total = total + value
        return total
    join = getattr(type(first), "cat", None)
    if join is not None:
        return join(values)
    raise TypeError(f"InstanceData.{name} cannot be joined: {type(first).__name__} has no `cat`")
