"""Arrays from a sample's instances, straight from the table's columns where they are still untouched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask

from detcore.data.table import Instances
from detcore.errors import DataError
from detcore.structures.mask import BitmapMasks, PolygonMasks, mask_polygons
from detcore.structures.mask.rasterize import fill_polygons, fill_run_lengths


def box_array(instances: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """float32 (N, 4), xyxy, absolute pixels."""
    if isinstance(instances, Instances):
        return instances.boxes.copy()
    return np.array([instance["bbox"] for instance in instances], np.float32).reshape(-1, 4)


def label_array(instances: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """int64 (N,)."""
    if isinstance(instances, Instances):
        return instances.labels
    return np.array([instance["bbox_label"] for instance in instances], np.int64)


def ignore_flags(instances: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """bool (N,), a copy."""
    if isinstance(instances, Instances):
        return instances.ignored.copy()
    return np.array([instance.get("ignore_flag", 0) for instance in instances], bool)


def load_masks(
    instances: Sequence[Mapping[str, Any]], height: int, width: int, as_bitmaps: bool
) -> tuple[BitmapMasks | PolygonMasks, np.ndarray]:
    """Masks of all instances.

    Args:
        instances: The sample's instances.
        height: Of the image in pixels.
        width: Of the image in pixels.
        as_bitmaps: Rasterise; else keep polygons, and trace those of run lengths unless they are to be
            ignored (crowds).

    Returns:
        The masks, and bool (N,), true for instances without a usable mask (theirs is empty).

    Raises:
        DataError: A run-length encoding has another size, or is broken.
    """
    if isinstance(instances, Instances):
        segmentations = instances.masks()
    else:
        segmentations = [instance.get("mask") for instance in instances]
    missing = np.zeros(len(segmentations), bool)
    if as_bitmaps:
        bitmaps = np.zeros((len(segmentations), height, width), np.uint8)
        for row, segmentation in enumerate(segmentations):
            missing[row] = not _fill(segmentation, bitmaps[row])
        return BitmapMasks(bitmaps, height, width), missing
    ignored = ignore_flags(instances)
    parts = []
    for row, segmentation in enumerate(segmentations):
        polygons = _polygons(segmentation)
        if isinstance(segmentation, Mapping) and not ignored[row]:
            traced = mask_polygons(decode_rle(segmentation, height, width))
            polygons = [np.array(polygon) for polygon in traced]
        missing[row] = not polygons
        parts.append(polygons or [np.zeros(6)])
    return PolygonMasks(parts, height, width), missing


def _polygons(segmentation: Any) -> list[np.ndarray]:
    """Polygons of at least three points, float64; none for anything else."""
    if not isinstance(segmentation, (list, tuple)):
        return []
    polygons = [as_written(np.asarray(polygon)) for polygon in segmentation]
    return [
        polygon for polygon in polygons if polygon.ndim == 1 and len(polygon) >= 6 and len(polygon) % 2 == 0
    ]


def as_written(points: np.ndarray) -> np.ndarray:
    """Coordinates in float64, those in float32 with the decimals that a file had.

    Filling rounds to fifths of a pixel: 133.7 lies on a border, and its nearest float32 on one side of it.
    """
    if points.dtype != np.float32:
        return points.astype(np.float64)
    exact = points.astype(np.float64)
    rounded = np.round(exact, 3)
    return np.where(rounded.astype(np.float32) == points, rounded, exact)


def _fill(segmentation: Any, bitmap: np.ndarray) -> bool:
    """Put a mask into an empty bitmap (H, W); false where there is none."""
    if isinstance(segmentation, Mapping):
        fill_run_lengths(checked_rle(segmentation, *bitmap.shape), bitmap)
        return True
    polygons = _polygons(segmentation)
    fill_polygons(polygons, bitmap)
    return bool(polygons)


def decode_rle(rle: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """Decode a COCO run-length encoding, compressed or not.

    Returns:
        uint8 (H, W), 1 inside.

    Raises:
        DataError: Its size is not the image's, or its runs do not fill that size.
    """
    bitmap = np.zeros((height, width), np.uint8)
    fill_run_lengths(checked_rle(rle, height, width), bitmap)
    return bitmap


def checked_rle(rle: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
    """A compressed run-length encoding that is safe to decode.

    Raises:
        DataError: Its size is not the image's, or its runs do not fill that size.
    """
    size = tuple(rle["size"])
    if size != (height, width):
        raise DataError(f"an RLE mask has size {size} (h, w), but its image has {(height, width)}")
    counts = rle["counts"]
    runs = counts if isinstance(counts, list) else _runs(counts)
    # Runs that overrun the mask made older versions of pycocotools write beyond their memory.
    if sum(runs) != height * width or min(runs, default=0) < 0:
        raise DataError(f"an RLE mask is broken: its runs cover {sum(runs)} pixels of {height} x {width}")
    if isinstance(counts, list):
        packed: dict[str, Any] = coco_mask.frPyObjects({"size": list(size), "counts": counts}, height, width)
        return packed
    return {"size": list(size), "counts": counts.encode("ascii") if isinstance(counts, str) else counts}


def _runs(text: str | bytes) -> list[int]:
    """Run lengths of a compressed RLE: 5 bits a character from 48 on, every run from the 4th relative."""
    codes = text.encode("ascii", "replace") if isinstance(text, str) else text
    runs: list[int] = []
    value = shift = 0
    for code in codes:
        bits = code - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise DataError("an RLE mask is broken: its text ends within a number")
    return runs
