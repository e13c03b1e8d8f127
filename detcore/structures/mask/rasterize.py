"""Polygons: filling, area, and cutting to a rectangle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask


def polygon_to_bitmap(polygons: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """Fill one instance's polygons as COCO does.

    Args:
        polygons: Each ``(2 * K,)``: x, y, x, y, ... in pixels; overlapping parts count once.
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Returns:
        ``(height, width)`` of booleans.
    """
    bitmap = np.zeros((height, width), bool)
    fill_polygons(polygons, bitmap)
    return bitmap


def fill_polygons(polygons: Sequence[np.ndarray], bitmap: np.ndarray) -> None:
    """Fill one instance's polygons into an empty bitmap ``(height, width)``, as :func:`polygon_to_bitmap`."""
    height, width = bitmap.shape
    drawable = [np.asarray(p, np.float64).tolist() for p in polygons if len(p) >= 6]
    if drawable and height and width:
        fill_run_lengths(coco_mask.merge(coco_mask.frPyObjects(drawable, height, width)), bitmap)


def fill_run_lengths(encoded: Any, bitmap: np.ndarray) -> None:
    """Put COCO's compressed run lengths into an empty bitmap of their size."""
    # Decoded is column by column; only the part with something in it is turned.
    x, y, w, h = (int(side) for side in coco_mask.toBbox(encoded))
    bitmap[y : y + h, x : x + w] = coco_mask.decode(encoded)[y : y + h, x : x + w]


def polygon_area(polygon: np.ndarray) -> float:
    """Area of a polygon ``(2 * K,)`` in square pixels (the shoelace formula)."""
    x, y = polygon[0::2].astype(np.float64), polygon[1::2].astype(np.float64)
    return float(0.5 * np.abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))


def clip_polygon(polygon: np.ndarray, x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    """The part of a polygon within a rectangle (Sutherland and Hodgman 1974).

    Moving the outer points to the border, which is simpler, changes the area of what stays inside.

    Args:
        polygon: ``(2 * K,)``: x, y, x, y, ...
        x1: Left border; ``y1`` is the upper, ``x2`` the right, ``y2`` the lower one.

    Returns:
        ``(2 * M,)`` float64; empty where nothing with an area is left. Parts of a concave polygon that the
        border separates stay joined along it, which changes neither area nor filling.
    """
    points = polygon.reshape(-1, 2).astype(np.float64)
    for axis, bound, sign in ((0, x1, 1.0), (0, x2, -1.0), (1, y1, 1.0), (1, y2, -1.0)):
        if len(points) == 0:
            break
        points = _clip_half_plane(points, axis, bound, sign)
    if len(points) < 3:
        return np.zeros(0, np.float64)
    # Not by the area: that of a polygon that crosses itself may cancel out.
    x, y = (points[1:] - points[0]).T
    on_one_line = not np.any(x[:-1] * y[1:] - x[1:] * y[:-1])
    return np.zeros(0, np.float64) if on_one_line else points.reshape(-1)


def _clip_half_plane(points: np.ndarray, axis: int, bound: float, sign: float) -> np.ndarray:
    """Keep what has ``sign * (coordinate - bound) >= 0``; points are ``(K, 2)``."""
    depth = sign * (points[:, axis] - bound)
    inside = depth >= 0
    if inside.all():
        return points
    kept: list[np.ndarray] = []
    for i in range(len(points)):
        previous = i - 1
        if inside[i] != inside[previous]:
            share = depth[previous] / (depth[previous] - depth[i])
            crossing = points[previous] + share * (points[i] - points[previous])
            crossing[axis] = bound  # exactly on the border, whatever was rounded
            kept.append(crossing)
        if inside[i]:
            kept.append(points[i])
    return np.array(kept, np.float64).reshape(-1, 2)
