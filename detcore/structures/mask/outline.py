"""Polygons around bitmaps."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from detcore.structures.mask.run_length import as_bitmaps, mask_bounds


def mask_polygons(mask: np.ndarray, tolerance: float = 0.5) -> list[list[float]]:
    """Polygons whose union is the mask, as COCO writes them.

    They run along the edges of pixels, not through their centres: a line one pixel wide has an area. A hole
    is joined to its outline by a cut of no width; fillings that count crossings leave it open.

    Args:
        mask: ``(H, W)`` of 0 and 1, or booleans.
        tolerance: By how many pixels a polygon may leave the edges, to have fewer points; for small masks by
            no more than a fiftieth of their size (the side of a square as large as they).

    Returns:
        Each ``[x1, y1, x2, y2, ...]`` in pixels; none for an empty mask.
    """
    bounds = mask_bounds(mask)
    if bounds is None:
        return []
    x1, y1, x2, y2 = bounds
    tolerance = min(tolerance, 0.02 * float(np.count_nonzero(mask[y1:y2, x1:x2])) ** 0.5)
    # Two points a pixel and one more: dilated, the marks of pixels reach from edge to edge.
    marks = np.zeros((2 * (y2 - y1) + 1, 2 * (x2 - x1) + 1), np.uint8)
    marks[1::2, 1::2] = mask[y1:y2, x1:x2]
    covered = cv2.dilate(marks, np.ones((3, 3), np.uint8))
    found, tree = cv2.findContours(covered, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outer: dict[int, np.ndarray] = {}
    for number, contour in enumerate(found):
        if tree[0][number][3] < 0:
            outer[number] = _simplified(contour, tolerance)
    for number, contour in enumerate(found):
        parent = int(tree[0][number][3])
        if parent >= 0:
            outer[parent] = _joined(outer[parent], _simplified(contour, tolerance))
    shift = np.array([x1, y1], np.float64)
    return [(points / 2 + shift).reshape(-1).tolist() for points in outer.values() if len(points) >= 3]


def masks_polygons(masks: Any, tolerance: float = 0.5) -> list[list[list[float]]]:
    """`mask_polygons` of each of ``Tensor[N, H, W]``, an array, mask structures, or a list of run lengths."""
    return [mask_polygons(mask, tolerance) for mask in as_bitmaps(masks)]


def _simplified(contour: np.ndarray, tolerance: float) -> np.ndarray:
    """``(K, 2)`` float64, at most ``tolerance`` pixels (twice as many marks) from the contour."""
    fewer = cv2.approxPolyDP(contour, 2 * tolerance, True)
    return fewer.reshape(-1, 2).astype(np.float64)


def _joined(outline: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """One ring: along the outline, over to the hole where it is nearest, around it, and back."""
    distances = ((outline[:, None] - hole[None]) ** 2).sum(2)
    here, there = np.unravel_index(int(distances.argmin()), distances.shape)
    around = np.roll(hole, -int(there), axis=0)
    return np.concatenate([outline[: here + 1], around, around[:1], outline[here:]])
