"""Arithmetic that several geometric transforms share."""

from __future__ import annotations

import cv2
import numpy as np

INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}


def fitted_size(size: tuple[int, int], scale: float | tuple[float, float]) -> tuple[int, int]:
    """Size of an image after it is scaled with its aspect ratio kept.

    Args:
        size: (width, height) in pixels.
        scale: A factor, or the (long, short) sides in any order that the image must fit into.

    Returns:
        (width, height), rounded to the nearest pixel.
    """
    width, height = size
    if isinstance(scale, (int, float)):
        factor = float(scale)
    else:
        factor = min(max(scale) / max(size), min(scale) / min(size))
    return int(width * factor + 0.5), int(height * factor + 0.5)


def clip_boxes(boxes: np.ndarray, img_shape: tuple[int, int]) -> np.ndarray:
    """Clip boxes (float32 (N, 4), xyxy) in place to an image of (h, w) pixels."""
    height, width = img_shape
    np.maximum(boxes, 0, out=boxes)
    np.minimum(boxes, np.array((width, height, width, height), boxes.dtype), out=boxes)
    return boxes


def resize_array(img: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Resize an image (H, W[, C]) to ``size`` (w, h)."""
    resized: np.ndarray = cv2.resize(img, size, interpolation=INTERPOLATIONS[interpolation])
    # cv2 drops a channel axis of length 1.
    return resized[..., None] if resized.ndim < img.ndim else resized
