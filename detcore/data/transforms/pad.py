"""Padding to the right and below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypedDict

import cv2
import numpy as np

from detcore.data.transforms.base import BaseTransform, Results

BORDERS = {
    "constant": cv2.BORDER_CONSTANT,
    "edge": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT_101,
    "symmetric": cv2.BORDER_REFLECT,
}


class PadValues(TypedDict, total=False):
    """Values of new pixels, by what is padded."""

    img: float | Sequence[float]
    masks: int
    seg: int


class Pad(BaseTransform):
    """Pad image, masks and label map at the right and lower edge; boxes stay where they are.

    Sets ``pad_shape`` and ``img_shape`` (h, w), ``pad_fixed_size`` and ``pad_size_divisor``.

    Args:
        size: (width, height) to pad to; an image that is larger keeps its size.
        size_divisor: Pad both sides to a multiple of this; together with ``pad_to_square`` of the square.
        pad_to_square: Pad the shorter side to the longer.
        pad_val: Value of new image pixels (a number or one a channel), or
            ``dict(img=..., seg=..., masks=...)``; label maps get 255 by default.
        padding_mode: ``'constant'``, ``'edge'``, ``'reflect'`` or ``'symmetric'``.
    """

    carries_proposals = True

    def __init__(
        self,
        size: tuple[int, int] | None = None,
        size_divisor: int | None = None,
        pad_to_square: bool = False,
        pad_val: float | Sequence[float] | PadValues = 0,
        padding_mode: str = "constant",
    ) -> None:
        if pad_to_square and size is not None:
            raise ValueError("pad_to_square and size exclude each other")
        if not pad_to_square and (size is None) == (size_divisor is None):
            raise ValueError(
                f"give one of size, size_divisor and pad_to_square, got {size=}, {size_divisor=}"
            )
        if padding_mode not in BORDERS:
            raise ValueError(f"padding_mode={padding_mode!r}, expected one of {', '.join(BORDERS)}")
        self.size, self.size_divisor, self.pad_to_square = size, size_divisor, pad_to_square
        self.pad_val: dict[str, Any] = {**pad_val} if isinstance(pad_val, dict) else {"img": pad_val}
        self.padding_mode = padding_mode

    def transform(self, results: Results) -> Results:
        """Pad everything in the sample."""
        img = results["img"]
        height, width = self._target(img.shape[0], img.shape[1])
        value = self.pad_val.get("img", 0)
        results["img"] = pad_array(img, (height, width), value, self.padding_mode)
        results["pad_shape"] = results["img_shape"] = (height, width)
        results["pad_fixed_size"], results["pad_size_divisor"] = self.size, self.size_divisor
        if results.get("gt_masks") is not None:
            results["gt_masks"] = results["gt_masks"].pad(
                (height, width), pad_val=self.pad_val.get("masks", 0)
            )
        if results.get("gt_seg_map") is not None:
            value = self.pad_val.get("seg", 255)
            results["gt_seg_map"] = pad_array(
                results["gt_seg_map"], (height, width), value, self.padding_mode
            )
        return results

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if self.size is not None:
            return max(self.size[1], height), max(self.size[0], width)
        if self.pad_to_square:
            height = width = max(height, width)
        if self.size_divisor is not None:
            height = math.ceil(height / self.size_divisor) * self.size_divisor
            width = math.ceil(width / self.size_divisor) * self.size_divisor
        return height, width

    def __repr__(self) -> str:
        return f"Pad(size={self.size}, size_divisor={self.size_divisor}, pad_to_square={self.pad_to_square})"


def pad_array(
    img: np.ndarray, shape: tuple[int, int], value: float | Sequence[float], mode: str
) -> np.ndarray:
    """Pad an image (H, W[, C]) at the right and lower edge to ``shape`` (h, w)."""
    below, right = shape[0] - img.shape[0], shape[1] - img.shape[1]
    if not below and not right:
        return img
    channels = img.shape[2] if img.ndim == 3 else 1
    fill = tuple(value) if isinstance(value, Sequence) else (value,) * channels
    padded: np.ndarray = cv2.copyMakeBorder(img, 0, below, 0, right, BORDERS[mode], value=fill)
    return padded[..., None] if padded.ndim < img.ndim else padded
