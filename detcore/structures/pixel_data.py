"""Data of the pixels (label maps, depth, ...) of one image."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from detcore.structures.base import BaseDataElement


class PixelData(BaseDataElement):
    """Maps of equal height and width, each ``(C, H, W)``; slicing cuts all of them at once.

    A map of shape ``(H, W)`` is stored as ``(1, H, W)``.

    Example:
        >>> PixelData(sem_seg=torch.zeros(1, 20, 40))[10:20, 20:40].shape
        (10, 20)
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not isinstance(value, (Tensor, np.ndarray)):
            raise TypeError(f"PixelData.{name} must be a tensor or an array, got {type(value).__name__}")
        if value.ndim == 2:
            value = value[None]
        if value.ndim != 3:
            raise ValueError(f"PixelData.{name} must be (C, H, W) or (H, W), got shape {tuple(value.shape)}")
        for other in self._data_fields:
            if other != name:
                expected = tuple(getattr(self, other).shape[-2:])
                if tuple(value.shape[-2:]) != expected:
                    raise ValueError(
                        f"PixelData.{name} is {tuple(value.shape[-2:])} pixels (height, width), "
                        f"but {other!r} is {expected}"
                    )
                break
        super().__setattr__(name, value)

    def __getitem__(self, item: str | tuple[int | slice, int | slice]) -> Any:
        """One map for a name, else a window of all maps (an int keeps a height or width of one).

        Args:
            item: A field's name, or rows and columns: ``data[10:20, 5]``.

        Raises:
            IndexError: A row or column is out of range, or there are not exactly two indices.
            TypeError: An index is neither int nor slice.
        """
        if isinstance(item, str):
            return getattr(self, item)
        if not isinstance(item, tuple) or len(item) != 2:
            raise IndexError(f"pixels are selected by rows and columns, [h, w]; got {item!r}")
        size = self.shape
        if size is None:
            raise IndexError("there are no maps to select pixels from")
        rows, columns = self._window(item[0], size[0], "row"), self._window(item[1], size[1], "column")
        window = type(self)(metainfo=self.metainfo)
        for name, value in self.items():
            setattr(window, name, value[:, rows, columns])
        return window

    @staticmethod
    def _window(index: int | slice, size: int, what: str) -> slice:
        if isinstance(index, slice):
            return index
        if not isinstance(index, (int, np.integer)):
            raise TypeError(f"a {what} is selected by int or slice, got {type(index).__name__}")
        if not -size <= index < size:
            raise IndexError(f"{what} {index} is out of range for {size}")
        start = int(index) % size
        return slice(start, start + 1)

    @property
    def shape(self) -> tuple[int, int] | None:
        """Height and width of the maps in pixels, None while there are none."""
        for name in self._data_fields:
            height, width = getattr(self, name).shape[-2:]
            return int(height), int(width)
        return None
