"""Boxes, labels and masks drawn into an array with OpenCV; no window and no font file is needed."""
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from detcore.errors import DataError
from detcore.structures.mask import mask_bounds
from detcore.visualization.palette import Color, text_color

Rect = tuple[int, int, int, int]

_PAD = 2


def to_rgb_uint8(image: Any) -> np.ndarray:
    """A copy that can be drawn on.

    Args:
        image: array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): uint8, uint16, or floating point, either from
            0 to 1 or from 0 to 255. Alpha is dropped.

    Returns:
        ``uint8`` (H, W, 3), contiguous.

    Raises:
        DataError: another shape or type.
    """
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise DataError(f"an image is an array (height, width, 1, 3 or 4), got shape {np.shape(image)}")
    array = array[..., :3] if array.shape[2] > 1 else np.repeat(array, 3, axis=2)
    if array.dtype == np.uint16:
        array = array >> 8
    elif array.dtype.kind == "f":
        scale = 255.0 if array.max() <= 1.0 else 1.0
        array = np.nan_to_num(array * scale, nan=0.0).clip(0, 255).round()
    elif array.dtype.kind not in "uib":
        raise DataError(f"an image holds numbers, got dtype {array.dtype}")
    return np.array(array, dtype=np.uint8, order="C", copy=True)


def text_height(image: np.ndarray) -> int:
    """Height of letters in pixels that can be read without covering a small picture."""
    return int(np.clip(round(min(image.shape[:2]) * 0.03), 11, 36))


def line_width(image: np.ndarray) -> int:
    """Width of lines in pixels that suits the picture's size."""
    return int(np.clip(round(min(image.shape[:2]) / 250), 1, 8))


def draw_boxes(image: np.ndarray, boxes: np.ndarray, colors: Sequence[Color], width: int) -> None:
    """Draw rectangles into the image.

    Args:
        image: uint8 (H, W, 3), changed.
        boxes: float (N, 4) xyxy, absolute pixels; parts outside are cut off.
        colors: RGB, N of them.
        width: of the lines, in pixels.
    """
    height_width = np.array(image.shape[1::-1] * 2)
    # A box far outside overflows OpenCV's fixed-point numbers; a margin keeps its edges out of sight.
    corners = np.nan_to_num(boxes).clip(-width - 1, height_width + width).round().astype(int)
    for (left, top, right, bottom), color in zip(corners.tolist(), colors, strict=True):
        cv2.rectangle(image, (left, top), (right, bottom), color, width, cv2.LINE_AA)


def draw_masks(
    image: np.ndarray, masks: Sequence[np.ndarray] | np.ndarray, colors: Sequence[Color], alpha: float
) -> None:
    """Tint regions and outline them.

    Args:
        image: uint8 (H, W, 3), changed.
        masks: N of bool (H, W).
        colors: RGB, N of them.
        alpha: share of the colour, 0 to 1.
    """
    for mask, color in zip(masks, colors, strict=True):
        bounds = mask_bounds(mask)
        if bounds is None:
            continue
        x1, y1, x2, y2 = bounds
        part, covered = image[y1:y2, x1:x2], mask[y1:y2, x1:x2].astype(bool)
        part[covered] = (part[covered] * (1 - alpha) + np.array(color) * alpha).astype(np.uint8)
        outlines, _ = cv2.findContours(covered.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(image, outlines, -1, color, 1, offset=(x1, y1))


def draw_labels(
    image: np.ndarray, boxes: np.ndarray, texts: Sequence[str], colors: Sequence[Color], height: int
) -> None:
    """Write a label at each box: above it, else inside or below, where no earlier label stands.

    Args:
        image: uint8 (H, W, 3), changed.
        boxes: float (N, 4) xyxy; the first ones choose their places first and lie on top.
        texts: N labels, any script that OpenCV's own font knows.
        colors: RGB of the background, N of them.
        height: of the letters, in pixels.
    """
    taken: list[Rect] = []
    corners = np.nan_to_num(boxes).clip(-1e5, 1e5).tolist()
    for box, text in zip(corners, texts, strict=True):
        taken.append(_place(box, _extent(text, height), image.shape[:2], taken))
    for rect, text, color in reversed(list(zip(taken, texts, colors, strict=True))):
        left, top, right, bottom = rect
        cv2.rectangle(image, (left, top), (right - 1, bottom - 1), color, cv2.FILLED)
        _write(image, text, (left + _PAD, bottom - _PAD - height // 4), text_color(color), height)


def _place(
    box: Sequence[float], size: tuple[int, int], shape: tuple[int, ...], taken: Sequence[Rect]
) -> Rect:
    """The first free place of: above, inside at the top, inside at the bottom, below; else the first one."""
    width, height = size
    left, top, _, bottom = box
    places = [
        _inside(left, y, width, height, shape) for y in (top - height, top, bottom - height, bottom)
    ]
    return next((place for place in places if not any(_overlap(place, other) for other in taken)), places[0])


def _inside(x: float, y: float, width: int, height: int, shape: tuple[int, ...]) -> Rect:
    left = int(max(0, min(round(x), shape[1] - width)))
    top = int(max(0, min(round(y), shape[0] - height)))
    return left, top, left + width, top + height


def _overlap(one: Rect, other: Rect) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _extent(text: str, height: int) -> tuple[int, int]:
    """Width and height of the label's background, in pixels."""
    if hasattr(cv2, "FontFace"):
        _, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), cv2.FontFace("sans"), height, 400)
    else:
        (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, _hershey_scale(height), 1)
    return int(width) + 2 * _PAD + 1, height + height // 4 + 2 * _PAD


def _write(image: np.ndarray, text: str, baseline: tuple[int, int], color: Color, height: int) -> None:
    if hasattr(cv2, "FontFace"):
        cv2.putText(image, text, baseline, color, cv2.FontFace("sans"), height, 400)
    else:
        scale = _hershey_scale(height)
        cv2.putText(image, text, baseline, cv2.FONT_HERSHEY_SIMPLEX, scale, color, 1, cv2.LINE_AA)


def _hershey_scale(height: int) -> float:
    """OpenCV 4 scales a font whose capitals are 22 pixels high."""
    return height * 0.75 / 22
