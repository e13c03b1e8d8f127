"""Instance masks as polygons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from detcore.structures.mask.base import (
    BaseInstanceMasks,
    FlipDirection,
    Interpolation,
    as_positions,
    checked_box,
    checked_flip,
    checked_size,
)
from detcore.structures.mask.bitmap import BitmapMasks
from detcore.structures.mask.rasterize import clip_polygon, fill_polygons, polygon_area

Polygons = list[list[np.ndarray]]


class PolygonMasks(BaseInstanceMasks):
    """Masks of the instances in one image, each a list of polygons whose union it is.

    Args:
        masks: For each instance its polygons, each ``(2 * K,)``: x, y, x, y, ... in pixels, ``K >= 3``.
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Raises:
        ValueError: A polygon has another shape.
        TypeError: The masks are no list of lists of arrays.

    Example:
        >>> square = np.array([0, 0, 10, 0, 10, 10, 0, 10], float)
        >>> PolygonMasks([[square]], 20, 20).areas.tolist()
        [100.0]
    """

    def __init__(self, masks: Sequence[Sequence[np.ndarray]], height: int, width: int) -> None:
        self.height, self.width = checked_size(height, width)
        if isinstance(masks, np.ndarray) or not isinstance(masks, Sequence):
            raise TypeError(f"masks must be a list of lists of polygons, got {type(masks).__name__}")
        self.masks: Polygons = [_checked_polygons(polygons, i) for i, polygons in enumerate(masks)]

    def _mapped(
        self, convert: Callable[[np.ndarray], np.ndarray], out_shape: tuple[int, int], clip: bool = False
    ) -> Self:
        """Every polygon through ``convert`` (``(K, 2)`` to ``(K, 2)``), cut to ``out_shape`` where asked."""
        height, width = out_shape
        moved: Polygons = []
        for polygons in self.masks:
            new = [convert(p.reshape(-1, 2).astype(np.float64)).reshape(-1) for p in polygons]
            if clip:
                new = [p for p in (clip_polygon(p, 0, 0, width, height) for p in new) if len(p)]
            moved.append(new or [_nothing()])
        return type(self)(moved, height, width)

    def __len__(self) -> int:
        return len(self.masks)

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        """The polygons of each instance."""
        return iter(self.masks)

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray | Tensor) -> PolygonMasks:
        """The masks that an index selects (an int keeps a length of one)."""
        positions = as_positions(index, len(self)).tolist()
        return PolygonMasks([self.masks[i] for i in positions], self.height, self.width)

    @property
    def areas(self) -> np.ndarray:
        """Areas in square pixels, ``(N,)`` float64: the sum over an instance's polygons."""
        return np.array([sum(polygon_area(p) for p in polygons) for polygons in self.masks], np.float64)

    def to_ndarray(self) -> np.ndarray:
        """``(N, height, width)`` of 0 and 1, uint8."""
        bitmaps = np.zeros((len(self), self.height, self.width), np.uint8)
        for polygons, bitmap in zip(self.masks, bitmaps, strict=True):
            fill_polygons(polygons, bitmap)
        return bitmaps

    def to_bitmap(self) -> BitmapMasks:
        """The same masks, filled."""
        return BitmapMasks(self.to_ndarray(), self.height, self.width)

    def resize(self, out_shape: tuple[int, int], interpolation: Interpolation = "nearest") -> Self:
        """Masks scaled to ``out_shape`` (height, width); there is nothing to interpolate."""
        factor = np.array([out_shape[1] / self.width, out_shape[0] / self.height])
        return self._mapped(lambda points: points * factor, out_shape)

    def flip(self, flip_direction: FlipDirection = "horizontal") -> Self:
        """Mirrored masks.

        Raises:
            ValueError: The direction is unknown.
        """
        checked_flip(flip_direction)
        sign = np.array([1.0 if flip_direction == "vertical" else -1.0, 1.0])
        sign[1] = 1.0 if flip_direction == "horizontal" else -1.0
        shift = np.where(sign < 0, [self.width, self.height], 0.0)
        return self._mapped(lambda points: points * sign + shift, (self.height, self.width))

    def pad(self, out_shape: tuple[int, int], pad_val: int = 0) -> Self:
        """The same polygons in an image of ``out_shape`` (height, width); ``pad_val`` has no meaning here."""
        return type(self)(self.masks, *out_shape)

    def crop(self, bbox: np.ndarray | Sequence[float]) -> Self:
        """The part of the masks within a box (xyxy, pixels; cut to the image; at least 1 x 1).

        Instances without a part in it stay, as a polygon without area, so that masks and boxes keep in step.
        """
        box = checked_box(bbox)
        x1, x2 = np.clip(box[0::2], 0, self.width).tolist()
        y1, y2 = np.clip(box[1::2], 0, self.height).tolist()
        width, height = max(x2 - x1, 1), max(y2 - y1, 1)
        return self._mapped(lambda points: points - (x1, y1), (int(height), int(width)), clip=True)

    def crop_and_resize(
        self,
        bboxes: np.ndarray | Tensor,
        out_shape: tuple[int, int],
        inds: np.ndarray | Tensor,
        device: torch.device | str = "cpu",
        interpolation: Interpolation = "bilinear",
        binarize: bool = True,
    ) -> Self:
        """Mask targets: for each box, the mask of its instance relative to it, scaled to one size.

        Args:
            bboxes: ``(K, 4)`` xyxy in pixels.
            out_shape: Height and width of the results.
            inds: ``(K,)``: which mask belongs to which box.
            device: Has no meaning here, like ``interpolation``.
            interpolation: Has no meaning here.
            binarize: Must be True: polygons have no soft borders.

        Returns:
            ``K`` masks of ``out_shape``.
        """
        if not binarize:
            raise ValueError("polygons have no soft borders: binarize must be True")
        height, width = out_shape
        boxes = bboxes.detach().cpu().numpy() if isinstance(bboxes, Tensor) else np.asarray(bboxes)
        positions = as_positions(inds, len(self))
        if len(positions) != len(boxes):
            raise ValueError(f"{len(boxes)} boxes need as many indices, got {len(positions)}")
        targets: Polygons = []
        # In the precision of the boxes: filling rounds, and so would come out otherwise here and there.
        for (x1, y1, x2, y2), i in zip(boxes.reshape(-1, 4), positions, strict=True):
            factor = np.array([width / max(x2 - x1, 1), height / max(y2 - y1, 1)])
            targets.append([((p.reshape(-1, 2) - (x1, y1)) * factor).reshape(-1) for p in self.masks[i]])
        return type(self)(targets, height, width)

    def expand(self, expanded_h: int, expanded_w: int, top: int, left: int) -> Self:
        """Masks placed into a larger empty image, their corner at (``left``, ``top``).

        Raises:
            ValueError: They do not fit in there.
        """
        if min(top, left) < 0 or top + self.height > expanded_h or left + self.width > expanded_w:
            raise ValueError(
                f"masks of {(self.height, self.width)} at top {top}, left {left} do not fit "
                f"into {(expanded_h, expanded_w)}"
            )
        shift = np.array([left, top], np.float64)
        return self._mapped(lambda points: points + shift, (expanded_h, expanded_w))

    def warp(
        self,
        matrix: np.ndarray,
        out_shape: tuple[int, int],
        border_value: int = 0,
        interpolation: Interpolation = "bilinear",
    ) -> Self:
        """Masks under an affine map ``(2, 3)``, cut to ``out_shape``; see the base class."""
        if border_value:
            raise ValueError("polygons end where the image does: border_value must be 0")
        linear, shift = matrix[:, :2], matrix[:, 2]
        return self._mapped(lambda points: points @ linear.T + shift, out_shape, clip=True)

    def get_bboxes(self, dst_type: str = "hbox") -> np.ndarray:
        """Smallest boxes around the masks: ``(N, 4)`` xyxy float32; zeros for a mask without points.

        Raises:
            ValueError: ``dst_type`` is not ``'hbox'`` (axis-aligned boxes), the only kind there is.
        """
        if dst_type != "hbox":
            raise ValueError(f"dst_type must be 'hbox', got {dst_type!r}")
        boxes = np.zeros((len(self), 4), np.float32)
        for box, polygons in zip(boxes, self.masks, strict=True):
            if polygons:
                points = np.concatenate([p.reshape(-1, 2) for p in polygons])
                box[:2], box[2:] = points.min(0), points.max(0)
        return boxes

    @classmethod
    def random(
        cls,
        num_masks: int = 3,
        height: int = 32,
        width: int = 32,
        n_verts: int = 5,
        dtype: type = np.float32,
        rng: np.random.RandomState | np.random.Generator | None = None,
    ) -> Self:
        """One random star-shaped polygon an instance, for tests and examples."""
        generator = np.random.default_rng() if rng is None else rng
        masks: Polygons = []
        for _ in range(num_masks):
            angles = np.sort(generator.uniform(0, 2 * np.pi, n_verts))
            radii = generator.uniform(0.1, 0.5, n_verts)
            x, y = (0.5 + radii * np.cos(angles)) * width, (0.5 + radii * np.sin(angles)) * height
            masks.append([np.stack([x, y], 1).reshape(-1).astype(dtype)])
        return cls(masks, height, width)

    @classmethod
    def cat(cls, masks: Sequence[PolygonMasks]) -> Self:
        """All masks of several elements in one.

        Raises:
            ValueError: There are none, or they have different sizes.
        """
        if len(masks) == 0:
            raise ValueError("cat needs at least one PolygonMasks, got none")
        sizes = {(m.height, m.width) for m in masks}
        if len(sizes) > 1:
            raise ValueError(f"cat needs masks of one size, got {sorted(sizes)}")
        return cls([polygons for m in masks for polygons in m.masks], masks[0].height, masks[0].width)


def _nothing() -> np.ndarray:
    """A polygon without area, for instances of which nothing is left."""
    return np.zeros(6, np.float64)


def _checked_polygons(polygons: Sequence[np.ndarray], position: int) -> list[np.ndarray]:
    if isinstance(polygons, np.ndarray) and polygons.ndim == 1 and polygons.dtype != object:
        raise TypeError(f"masks[{position}] must be a list of polygons, got one array")
    checked = []
    for polygon in polygons:
        array = np.asarray(polygon)
        if array.ndim != 1 or len(array) % 2 or len(array) < 6:
            raise ValueError(
                f"a polygon is x, y, x, y, ... of at least 3 points; masks[{position}] holds one of shape "
                f"{array.shape}"
            )
        checked.append(array)
    return checked
