"""Arithmetic that several geometric transforms share."""

from __future__ import annotations

from collections.abc import Sequence

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


def warp_array(
    img: np.ndarray, matrix: np.ndarray, shape: tuple[int, int], interpolation: str, fill: Sequence[float]
) -> np.ndarray:
    """An image under an affine map.

    Args:
        img: (H, W[, C]).
        matrix: float (2 or 3, 3): where a pixel (x, y, 1) goes.
        shape: (h, w) of the result.
        interpolation: A key of `INTERPOLATIONS`.
        fill: Value of pixels that the image does not cover, one a channel.

    Returns:
        (h, w[, C]) of the same type.
    """
    size = shape[1], shape[0]
    if img.dtype == np.uint8 and img.shape[2:] == (3,) and interpolation == "bilinear":
        return _warped_colours(img, matrix[:2], size, fill)
    warped: np.ndarray = cv2.warpAffine(
        img, matrix[:2], size, flags=INTERPOLATIONS[interpolation], borderValue=tuple(fill)
    )
    return warped.reshape(*shape, *img.shape[2:])


def _warped_colours(
    img: np.ndarray, matrix: np.ndarray, size: tuple[int, int], fill: Sequence[float]
) -> np.ndarray:
    """uint8 (H, W, 3) to ``size`` (w, h), bilinear: with a fourth channel OpenCV takes a third of the time.

    The values are the same. Only what is seen gets a fourth channel.
    """
    height, width = img.shape[:2]
    back = cv2.invertAffineTransform(np.asarray(matrix, np.float64))
    ends = np.array([[x, y, 1.0] for x in (0, size[0] - 1) for y in (0, size[1] - 1)]) @ back.T
    # One pixel more is looked at for interpolation, and one for rounding.
    x1, y1 = np.clip(np.floor(ends.min(0)) - 2, 0, (width, height)).astype(int).tolist()
    x2, y2 = np.clip(np.ceil(ends.max(0)) + 3, 0, (width, height)).astype(int).tolist()
    with_fourth = np.empty((height, width, 4), np.uint8)
    if x1 < x2 and y1 < y2:
        cv2.cvtColor(img[y1:y2, x1:x2], cv2.COLOR_BGR2BGRA, dst=with_fourth[y1:y2, x1:x2])
    warped = cv2.warpAffine(with_fourth, matrix, size, flags=cv2.INTER_LINEAR, borderValue=(*fill, 0.0))
    colours: np.ndarray = cv2.cvtColor(warped, cv2.COLOR_BGRA2BGR)
    return colours
