"""Rectangles of one colour put over the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detcore.data.transforms.base import BaseTransform, Results, keep_instances
from detcore.data.transforms.fill import Fill, checked_fill, fill_of
from detcore.structures.mask import BitmapMasks, PolygonMasks
from detcore.structures.mask.rasterize import clip_polygon


class RandomErasing(BaseTransform):
    """Erase rectangles from image, masks and label map (Zhong et al. 2020).

    Boxes keep their size; an object is dropped when too much of its box is erased. How much that is counts
    every pixel once, also where rectangles overlap.

    Args:
        n_patches: Number of rectangles, or the smallest and the largest number.
        ratio: Their sides as parts of the image's, or the smallest and the largest part.
        squared: Draw one part for both sides, so that rectangles have the image's aspect ratio.
        bbox_erased_thr: Objects are kept where less than this part of the box is erased.
        img_border_value: Value of erased image pixels, from 0 to 255; a number or one a channel.
        mask_border_value: Value of erased pixels of bitmap masks; must be 0 for polygons.
        seg_ignore_label: Value of erased pixels of the label map.
    """

    carries_proposals = True

    def __init__(
        self,
        n_patches: int | tuple[int, int],
        ratio: float | tuple[float, float],
        squared: bool = True,
        bbox_erased_thr: float = 0.9,
        img_border_value: Fill = 128,
        mask_border_value: int = 0,
        seg_ignore_label: int = 255,
    ) -> None:
        self.n_patches = checked_count(n_patches, "n_patches")
        low, high = (ratio, ratio) if isinstance(ratio, (int, float)) else ratio
        if not 0 <= low <= high <= 1:
            raise ValueError(f"ratio must be a part in [0, 1], or (smallest, largest), got {ratio!r}")
        if not 0 < bbox_erased_thr <= 1:
            raise ValueError(f"bbox_erased_thr must lie in (0, 1], got {bbox_erased_thr}")
        self.ratio, self.squared, self.bbox_erased_thr = (low, high), squared, bbox_erased_thr
        self.img_border_value = checked_fill(img_border_value, "img_border_value")
        self.mask_border_value, self.seg_ignore_label = mask_border_value, seg_ignore_label

    def transform(self, results: Results) -> Results:
        """Draw rectangles and erase them from everything in the sample."""
        img = results["img"]
        patches = self._draw(*img.shape[:2])
        results["img"] = covered(img, patches, fill_of(img, self.img_border_value, "img_border_value"))
        if results.get("gt_bboxes") is not None:
            keep = covered_share(results["gt_bboxes"], patches) < self.bbox_erased_thr
            keep_instances(results, keep)
        if results.get("gt_masks") is not None:
            results["gt_masks"] = erased_masks(results["gt_masks"], patches, self.mask_border_value)
        if results.get("gt_seg_map") is not None:
            results["gt_seg_map"] = covered(results["gt_seg_map"], patches, (self.seg_ignore_label,))
        return results

    def _draw(self, height: int, width: int) -> np.ndarray:
        """int64 (P, 4) xyxy: rectangles within the image."""
        number = np.random.randint(self.n_patches[0], self.n_patches[1] + 1)
        patches = np.zeros((number, 4), np.int64)
        low, high = self.ratio
        for patch in patches:
            parts = low + np.random.rand(1 if self.squared else 2) * (high - low)
            down, across = int(height * parts[0]), int(width * parts[-1])
            left, top = np.random.randint(0, width - across + 1), np.random.randint(0, height - down + 1)
            patch[:] = left, top, left + across, top + down
        return patches

    def __repr__(self) -> str:
        return (
            f"RandomErasing(n_patches={self.n_patches}, ratio={self.ratio}, squared={self.squared}, "
            f"bbox_erased_thr={self.bbox_erased_thr})"
        )


class CutOut(BaseTransform):
    """Cover rectangles of the image (DeVries and Taylor 2017); boxes, masks and label map stay as they are.

    A rectangle's upper left corner lies anywhere in the image, which cuts off what reaches beyond it.

    Args:
        n_holes: Number of rectangles, or the smallest and the largest number.
        cutout_shape: (width, height) in pixels, or a list of them to draw from.
        cutout_ratio: (width, height) as parts of the image's, in place of ``cutout_shape``.
        fill_in: Value of covered pixels, from 0 to 255; a number or one a channel.
    """

    carries_proposals = True

    def __init__(
        self,
        n_holes: int | tuple[int, int],
        cutout_shape: tuple[int, int] | Sequence[tuple[int, int]] | None = None,
        cutout_ratio: tuple[float, float] | Sequence[tuple[float, float]] | None = None,
        fill_in: Fill = (0, 0, 0),
    ) -> None:
        if (cutout_shape is None) == (cutout_ratio is None):
            raise ValueError(
                f"give one of cutout_shape and cutout_ratio, got {cutout_shape=}, {cutout_ratio=}"
            )
        self.n_holes, self.with_ratio = checked_count(n_holes, "n_holes"), cutout_ratio is not None
        name, given = (
            ("cutout_ratio", cutout_ratio) if cutout_ratio is not None else ("cutout_shape", cutout_shape)
        )
        self.candidates = _pairs(given, name)
        self.fill_in = checked_fill(fill_in, "fill_in")

    def transform(self, results: Results) -> Results:
        """Draw rectangles and cover them."""
        img = results["img"]
        height, width = img.shape[:2]
        patches = np.zeros((np.random.randint(self.n_holes[0], self.n_holes[1] + 1), 4), np.int64)
        for patch in patches:
            left, top = np.random.randint(0, width), np.random.randint(0, height)
            across, down = self.candidates[np.random.randint(0, len(self.candidates))]
            if self.with_ratio:
                across, down = across * width, down * height
            patch[:] = left, top, left + int(across), top + int(down)
        results["img"] = covered(img, patches, fill_of(img, self.fill_in, "fill_in"))
        return results

    def __repr__(self) -> str:
        name = "cutout_ratio" if self.with_ratio else "cutout_shape"
        return f"CutOut(n_holes={self.n_holes}, {name}={self.candidates}, fill_in={self.fill_in})"


def checked_count(value: int | tuple[int, int], name: str) -> tuple[int, int]:
    """A number as (smallest, largest).

    Raises:
        ValueError: It is negative, no whole number, or the smallest is larger than the largest.
    """
    pair = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    if len(pair) != 2 or not all(isinstance(each, int) for each in pair) or not 0 <= pair[0] <= pair[1]:
        raise ValueError(f"{name} must be a number from 0 on, or (smallest, largest), got {value!r}")
    return pair


def _pairs(value: object, name: str) -> list[tuple[float, float]]:
    """One (width, height) or several, as a list."""
    listed = list(value) if isinstance(value, (list, tuple)) else []
    if listed and all(isinstance(each, (int, float)) for each in listed):
        listed = [listed]
    pairs = [tuple(each) if isinstance(each, (list, tuple)) else () for each in listed]
    if not pairs or any(len(pair) != 2 or min(pair) < 0 for pair in pairs):
        raise ValueError(f"{name} must be (width, height) or a list of them, not negative, got {value!r}")
    return pairs


def covered(img: np.ndarray, patches: np.ndarray, fill: tuple[float, ...]) -> np.ndarray:
    """A copy of an image (H, W[, C]) with rectangles (P, 4) xyxy set to a value a channel."""
    img = img.copy()
    value = fill[0] if img.ndim == 2 else np.asarray(fill)
    for x1, y1, x2, y2 in patches.tolist():
        img[y1:y2, x1:x2] = value
    return img


def covered_share(boxes: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """Which part of each box lies under rectangles, float (N,) in [0, 1]; 0 for a box without area.

    Args:
        boxes: float32 (N, 4) xyxy.
        patches: int (P, 4) xyxy; they may overlap.
    """
    # All borders together cut the plane into cells; each lies under a rectangle as a whole or not at all.
    xs, ys = np.unique(patches[:, 0::2]), np.unique(patches[:, 1::2])
    if len(xs) < 2 or len(ys) < 2:
        return np.zeros(len(boxes))
    x1, y1, x2, y2 = patches.T[:, :, None]
    across = ((x1 <= xs[:-1]) & (xs[1:] <= x2)).astype(np.float64)
    down = ((y1 <= ys[:-1]) & (ys[1:] <= y2)).astype(np.float64)
    cells = (np.einsum("px,py->xy", across, down) > 0).astype(np.float64)
    widths, heights = _shared(boxes[:, 0::2], xs), _shared(boxes[:, 1::2], ys)
    area = np.einsum("nx,ny,xy->n", widths, heights, cells)
    sides = boxes[:, 2:].astype(np.float64) - boxes[:, :2]
    return area / np.maximum(sides[:, 0] * sides[:, 1], 1e-7)


def _shared(spans: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """Lengths (N, K) that spans (N, 2) share with each interval between K + 1 borders."""
    low = np.maximum(spans[:, :1].astype(np.float64), borders[:-1])
    high = np.minimum(spans[:, 1:].astype(np.float64), borders[1:])
    return (high - low).clip(0)


def erased_masks(
    masks: BitmapMasks | PolygonMasks, patches: np.ndarray, value: int = 0
) -> BitmapMasks | PolygonMasks:
    """Masks without what lies under rectangles (P, 4) xyxy.

    Raises:
        ValueError: Polygons are to be set to another value than 0.
    """
    if isinstance(masks, BitmapMasks):
        bitmaps = masks.masks.copy()
        for x1, y1, x2, y2 in patches.tolist():
            bitmaps[:, y1:y2, x1:x2] = value
        return BitmapMasks(bitmaps, masks.height, masks.width)
    if value:
        raise ValueError(f"mask_border_value must be 0 for polygon masks, got {value}")
    rest = [list(polygons) for polygons in masks.masks]
    for patch in patches.tolist():
        rest = [
            [part for polygon in polygons for part in _around(polygon, patch, masks.height, masks.width)]
            for polygons in rest
        ]
    return PolygonMasks([polygons or [np.zeros(6)] for polygons in rest], masks.height, masks.width)


def _around(polygon: np.ndarray, patch: Sequence[int], height: int, width: int) -> list[np.ndarray]:
    """The parts of a polygon left of, right of, above and below a rectangle; the polygon if it is apart."""
    x1, y1, x2, y2 = patch
    if len(clip_polygon(polygon, x1, y1, x2, y2)) == 0:
        return [polygon]
    strips = ((0, 0, x1, height), (x2, 0, width, height), (x1, 0, x2, y1), (x1, y2, x2, height))
    parts = [clip_polygon(polygon, *strip) for strip in strips]
    return [part for part in parts if len(part)]
