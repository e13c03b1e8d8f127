"""What bitmap and polygon masks have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, Self

import cv2
import numpy as np
import torch
from torch import Tensor

FlipDirection = Literal["horizontal", "vertical", "diagonal"]
Axis = Literal["horizontal", "vertical"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "area", "lanczos"]

INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}


class BaseInstanceMasks(ABC):
    """Masks of the ``N`` instances in one image of ``height`` x ``width`` pixels.

    Every operation returns new masks and leaves these as they are. Sizes of masks are (height, width) here.
    """

    height: int
    width: int

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray | Tensor) -> Self:
        """The masks that an index selects (an int keeps a length of one)."""

    @property
    @abstractmethod
    def areas(self) -> np.ndarray:
        """Areas in pixels, ``(N,)``."""

    @abstractmethod
    def to_ndarray(self) -> np.ndarray:
        """``(N, height, width)`` of 0 and 1, uint8."""

    @abstractmethod
    def resize(self, out_shape: tuple[int, int], interpolation: Interpolation = "nearest") -> Self:
        """Masks scaled to ``out_shape`` (height, width)."""

    @abstractmethod
    def get_bboxes(self, dst_type: str = "hbox") -> np.ndarray:
        """Smallest boxes around the masks: ``(N, 4)`` xyxy float32; zeros for a mask without area."""

    @abstractmethod
    def warp(
        self,
        matrix: np.ndarray,
        out_shape: tuple[int, int],
        border_value: int = 0,
        interpolation: Interpolation = "bilinear",
    ) -> Self:
        """Masks under an affine map.

        Args:
            matrix: ``(2, 3)``, takes (x, y, 1) of a pixel to its new place.
            out_shape: Height and width of the result.
            border_value: What bitmaps hold where the source ends; polygons have nothing there.
            interpolation: How bitmaps are sampled.
        """

    def to_tensor(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """``Tensor[N, height, width]``."""
        return torch.as_tensor(self.to_ndarray(), dtype=dtype, device=device)

    def rescale(self, scale: float | tuple[float, float], interpolation: Interpolation = "nearest") -> Self:
        """Masks scaled with their aspect ratio kept.

        Args:
            scale: A factor, or the largest long and short side in pixels, in either order.
            interpolation: How bitmaps are sampled.

        Raises:
            ValueError: The scale is not positive.
        """
        if isinstance(scale, (int, float)):
            factor = float(scale)
        else:
            factor = min(max(scale) / max(self.height, self.width), min(scale) / min(self.height, self.width))
        if not factor > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        return self.resize((int(self.height * factor + 0.5), int(self.width * factor + 0.5)), interpolation)

    def translate(
        self,
        out_shape: tuple[int, int],
        offset: float,
        direction: Axis = "horizontal",
        border_value: int = 0,
        interpolation: Interpolation = "bilinear",
    ) -> Self:
        """Masks moved by ``offset`` pixels: to the right (horizontal) or down (vertical)."""
        right, down = (offset, 0) if _is_horizontal(direction) else (0, offset)
        matrix = np.array([[1, 0, right], [0, 1, down]], np.float64)
        return self.warp(matrix, out_shape, border_value, interpolation)

    def shear(
        self,
        out_shape: tuple[int, int],
        magnitude: float,
        direction: Axis = "horizontal",
        border_value: int = 0,
        interpolation: Interpolation = "bilinear",
    ) -> Self:
        """Masks sheared about the upper left corner: x grows by ``magnitude`` y, or y by ``magnitude`` x."""
        by_y, by_x = (magnitude, 0) if _is_horizontal(direction) else (0, magnitude)
        matrix = np.array([[1, by_y, 0], [by_x, 1, 0]], np.float64)
        return self.warp(matrix, out_shape, border_value, interpolation)

    def rotate(
        self,
        out_shape: tuple[int, int],
        angle: float,
        center: tuple[float, float] | None = None,
        scale: float = 1.0,
        border_value: int = 0,
        interpolation: Interpolation = "bilinear",
    ) -> Self:
        """Masks turned clockwise.

        Args:
            out_shape: Height and width of the result.
            angle: In degrees, clockwise.
            center: (x, y) that stays where it is; the middle of the image where None.
            scale: Factor of size.
            border_value: What bitmaps hold where the source ends.
            interpolation: How bitmaps are sampled.
        """
        if center is None:
            center = ((self.width - 1) * 0.5, (self.height - 1) * 0.5)
        matrix = cv2.getRotationMatrix2D(center, -angle, scale)
        return self.warp(matrix, out_shape, border_value, interpolation)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_masks={len(self)}, height={self.height}, width={self.width})"


def _is_horizontal(direction: str) -> bool:
    if direction not in ("horizontal", "vertical"):
        raise ValueError(f"direction must be 'horizontal' or 'vertical', got {direction!r}")
    return direction == "horizontal"


def checked_size(height: int, width: int) -> tuple[int, int]:
    """Height and width as ints.

    Raises:
        ValueError: One of them is negative.
    """
    if height < 0 or width < 0:
        raise ValueError(f"masks need a size of at least (0, 0), got height {height}, width {width}")
    return int(height), int(width)


def checked_flip(direction: str) -> None:
    """Raise a ValueError unless this is a direction in which masks can be flipped."""
    if direction not in ("horizontal", "vertical", "diagonal"):
        raise ValueError(f"flip direction must be 'horizontal', 'vertical' or 'diagonal', got {direction!r}")


def checked_box(bbox: np.ndarray | Sequence[float]) -> np.ndarray:
    """One box as array ``(4,)``.

    Raises:
        ValueError: It has another shape.
    """
    box = np.asarray(bbox)
    if box.shape != (4,):
        raise ValueError(f"a crop box is (4,) xyxy, got shape {box.shape}")
    return box


def as_positions(index: int | slice | Sequence[int] | np.ndarray | Tensor, size: int) -> np.ndarray:
    """The positions ``(K,)`` that any kind of index selects among ``size`` masks.

    Raises:
        IndexError: A position is out of range, or a boolean index has another length.
        TypeError: The index holds neither integers nor booleans.
    """
    if isinstance(index, slice):
        return np.arange(size)[index]
    array = index.detach().cpu().numpy() if isinstance(index, Tensor) else np.asarray(index)
    array = np.atleast_1d(array)
    if array.size == 0 and array.dtype != np.bool_:
        return np.zeros(0, np.int64)
    if array.ndim != 1:
        raise IndexError(f"an index of masks has one dimension, got shape {array.shape}")
    if array.dtype == np.bool_:
        if len(array) != size:
            raise IndexError(f"a boolean index of length {len(array)} does not fit {size} masks")
        return np.flatnonzero(array)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"masks are selected by integers or booleans, got {array.dtype}")
    if array.min() < -size or array.max() >= size:
        raise IndexError(f"index {array.tolist()} is out of range for {size} masks")
    return array.astype(np.int64) % size
