"""Mirroring, scaling and cutting boxes; tensors and arrays alike."""
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from detcore.structures.bbox.kinds import Boxes, copied


def bbox_flip(bboxes: Boxes, img_shape: tuple[int, int], direction: str = "horizontal") -> Boxes:
    """Mirrored boxes.

    Args:
        bboxes: ``(..., 4 * k)``, xyxy.
        img_shape: Height and width of the image, in pixels.
        direction: ``'horizontal'``, ``'vertical'`` or ``'diagonal'`` (both).

    Raises:
        ValueError: The direction is unknown, or the last dimension is no multiple of 4.
    """
    if direction not in ("horizontal", "vertical", "diagonal"):
        raise ValueError(f"flip direction must be 'horizontal', 'vertical' or 'diagonal', got {direction!r}")
    if bboxes.shape[-1] % 4:
        raise ValueError(f"bboxes must be (..., 4 * k), got shape {tuple(bboxes.shape)}")
    height, width = img_shape[:2]
    flipped = copied(bboxes)
    if direction != "vertical":
        flipped[..., 0::4] = width - bboxes[..., 2::4]
        flipped[..., 2::4] = width - bboxes[..., 0::4]
    if direction != "horizontal":
        flipped[..., 1::4] = height - bboxes[..., 3::4]
        flipped[..., 3::4] = height - bboxes[..., 1::4]
    return flipped


def scale_boxes(boxes: Boxes, scale_factor: tuple[float, float]) -> Boxes:
    """Boxes of a scaled image.

    Args:
        boxes: ``(..., 4)``, xyxy.
        scale_factor: Factors of width and height.
    """
    factor_w, factor_h = scale_factor
    if isinstance(boxes, Tensor):
        return boxes * boxes.new_tensor([factor_w, factor_h, factor_w, factor_h])
    return boxes * np.array([factor_w, factor_h, factor_w, factor_h], boxes.dtype)


def bbox_rescale(bboxes: Tensor, scale_factor: float = 1.0) -> Tensor:
    """Boxes grown or shrunk about their own centre.

    Args:
        bboxes: ``Tensor[N, 4]`` xyxy, or ``Tensor[N, 5]`` with the number of the image in front.
        scale_factor: Factor of width and height.

    Raises:
        ValueError: The boxes have another shape.
    """
    if bboxes.size(-1) not in (4, 5):
        raise ValueError(f"bboxes must be [N, 4] or [N, 5], got shape {tuple(bboxes.shape)}")
    numbers, boxes = bboxes[..., :-4], bboxes[..., -4:]
    centers = (boxes[..., :2] + boxes[..., 2:]) * 0.5
    halves = (boxes[..., 2:] - boxes[..., :2]) * (0.5 * scale_factor)
    return torch.cat([numbers, centers - halves, centers + halves], -1)


def bbox_clip(bboxes: Boxes, img_shape: tuple[int, int]) -> Boxes:
    """Boxes ``(..., 4)`` cut to an image of ``img_shape`` (height, width)."""
    height, width = img_shape[:2]
    clipped = copied(bboxes)
    clipped[..., 0::2] = clipped[..., 0::2].clip(0, width)
    clipped[..., 1::2] = clipped[..., 1::2].clip(0, height)
    return clipped


def find_inside_bboxes(bboxes: Boxes, img_h: int, img_w: int) -> Boxes:
    """Which boxes ``(N, 4)`` overlap an image of that height and width: ``(N,)`` of booleans."""
    return (bboxes[..., 0] < img_w) & (bboxes[..., 2] > 0) & (bboxes[..., 1] < img_h) & (bboxes[..., 3] > 0)
