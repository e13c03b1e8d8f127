"""Bitmaps as COCO's run lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
from torch import Tensor


def mask_bounds(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """The smallest box around a mask.

    Args:
        mask: ``(H, W)`` of 0 and 1.

    Returns:
        x1, y1, x2, y2 in whole pixels, x2 and y2 being the first ones outside; None for an empty mask.
    """
    rows = np.flatnonzero(mask.any(1))
    if not len(rows):
        return None
    y1, y2 = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[y1:y2].any(0))
    return int(columns[0]), y1, int(columns[-1]) + 1, y2


def encode_mask(
    mask: np.ndarray, corner: tuple[int, int] = (0, 0), image_size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """COCO's compressed run lengths of one mask. Only the box around it is copied, not the image.

    Args:
        mask: ``(h, w)`` of 0 and 1, or booleans: of the image, or of the part of it that may hold something.
        corner: Where that part begins: (row, column).
        image_size: (height, width) of the image; None is the mask's own.

    Returns:
        ``size`` (``[H, W]``) and ``counts``, text, as in COCO's files.
    """
    height, width = mask.shape if image_size is None else image_size
    edges = np.zeros(0, np.int64)
    bounds = mask_bounds(mask)
    if bounds is not None:
        x1, y1, x2, y2 = bounds
        framed = np.zeros((x2 - x1, y2 - y1 + 2), bool)
        framed[:, 1:-1] = mask[y1:y2, x1:x2].T
        column, row = np.nonzero(framed[:, 1:] != framed[:, :-1])
        edges = (column + x1 + corner[1]) * height + row + y1 + corner[0]
        # A run that goes on at the top of the next column ends and begins at one place.
        joint = np.flatnonzero(edges[1:] == edges[:-1])
        edges = np.delete(edges, np.concatenate([joint, joint + 1]))
    runs = np.diff(np.concatenate([[0], edges, [height * width]]))
    # A mask that reaches the last pixel has no run of zeros behind it.
    runs = runs[:-1] if len(runs) > 1 and runs[-1] == 0 else runs
    encoded = coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return {"size": [height, width], "counts": encoded["counts"].decode("ascii")}


def encode_masks(masks: Any) -> list[dict[str, Any]]:
    """COCO's compressed run lengths of each mask.

    Args:
        masks: ``Tensor[N, H, W]`` or array of 0 and 1, `BitmapMasks`, `PolygonMasks`, or a list of such run
            lengths, compressed or not.

    Returns:
        For each mask ``size`` (``[H, W]``) and ``counts``, text.
    """
    if isinstance(masks, (list, tuple)) and all(isinstance(one, Mapping) for one in masks):
        return [_as_text(one) for one in masks]
    return [encode_mask(mask) for mask in as_bitmaps(masks)]


def as_bitmaps(masks: Any) -> np.ndarray:
    """``(N, H, W)`` of 0 and 1 or booleans, of anything that `encode_masks` takes."""
    if isinstance(masks, Tensor):
        array: np.ndarray = masks.detach().cpu().numpy()
        return array
    if hasattr(masks, "to_ndarray"):
        bitmaps: np.ndarray = masks.to_ndarray()
        return bitmaps
    if isinstance(masks, (list, tuple)) and not masks:
        return np.zeros((0, 0, 0), np.uint8)
    if isinstance(masks, (list, tuple)) and isinstance(masks[0], Mapping):
        return np.stack([coco_mask.decode(one) for one in encode_masks(masks)])
    return np.asarray(masks)


def decode_masks(encoded: Sequence[Mapping[str, Any]], height: int, width: int) -> np.ndarray:
    """``(N, height, width)`` uint8 of 0 and 1, from what `encode_masks` gives."""
    if not len(encoded):
        return np.zeros((0, height, width), np.uint8)
    return np.stack([coco_mask.decode(dict(one)) for one in encoded])


def _as_text(one: Mapping[str, Any]) -> dict[str, Any]:
    """Run lengths with plain numbers and text."""
    height, width = (int(side) for side in one["size"])
    counts = one["counts"]
    if isinstance(counts, list):
        counts = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [height, width], "counts": text}
