"""Moving, scaling and converting boxes; tensors and arrays alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Boxes = TypeVar("Boxes", Tensor, np.ndarray)


def _copied(boxes: Boxes) -> Boxes:
    return boxes.clone() if isinstance(boxes, Tensor) else boxes.copy()


def _stacked(parts: Sequence[Boxes]) -> Boxes:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.stack(list(parts), -1)
    return np.stack(list(parts), -1)


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
    flipped = _copied(bboxes)
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
    clipped = _copied(bboxes)
    clipped[..., 0::2] = clipped[..., 0::2].clip(0, width)
    clipped[..., 1::2] = clipped[..., 1::2].clip(0, height)
    return clipped


def find_inside_bboxes(bboxes: Boxes, img_h: int, img_w: int) -> Boxes:
    """Which boxes ``(N, 4)`` overlap an image of that height and width: ``(N,)`` of booleans."""
    return (bboxes[..., 0] < img_w) & (bboxes[..., 2] > 0) & (bboxes[..., 1] < img_h) & (bboxes[..., 3] > 0)


def bbox2corner(bboxes: Boxes) -> Boxes:
    """Corners ``(..., 4, 2)`` of boxes ``(..., 4)``: upper left, upper right, lower left, lower right."""
    x1, y1, x2, y2 = (bboxes[..., i] for i in range(4))
    flat = _stacked([x1, y1, x2, y1, x1, y2, x2, y2])
    return flat.reshape(*bboxes.shape[:-1], 4, 2)


def corner2bbox(corners: Boxes) -> Boxes:
    """Smallest boxes ``(..., 4)`` around corners ``(..., 4, 2)``."""
    if isinstance(corners, Tensor):
        return torch.cat([corners.amin(-2), corners.amax(-2)], -1)
    return np.concatenate([corners.min(-2), corners.max(-2)], -1)


def bbox_project(
    bboxes: Boxes, homography_matrix: np.ndarray | Tensor, img_shape: tuple[int, int] | None = None
) -> Boxes:
    """Smallest boxes around projected boxes.

    Args:
        bboxes: ``(N, 4)``, xyxy.
        homography_matrix: ``(3, 3)``, takes (x, y, 1) to its new place.
        img_shape: Height and width to cut the boxes to.

    Returns:
        ``(N, 4)``, xyxy, of the same kind and precision.
    """
    corners = bbox2corner(bboxes)
    if isinstance(corners, Tensor):
        matrix = torch.as_tensor(homography_matrix, dtype=corners.dtype, device=corners.device)
        homogeneous = torch.cat([corners, torch.ones_like(corners[..., :1])], -1)
    else:
        matrix = np.asarray(homography_matrix, dtype=np.result_type(corners.dtype, np.float32))
        homogeneous = np.concatenate([corners, np.ones_like(corners[..., :1])], -1)
    projected = homogeneous @ matrix.T
    boxes = corner2bbox(projected[..., :2] / projected[..., 2:])
    return boxes if img_shape is None else bbox_clip(boxes, img_shape)


def bbox_cxcywh_to_xyxy(bbox: Boxes) -> Boxes:
    """Boxes (cx, cy, w, h) ``(..., 4)`` as xyxy."""
    cx, cy, w, h = (bbox[..., i] for i in range(4))
    return _stacked([cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h])


def bbox_xyxy_to_cxcywh(bbox: Boxes) -> Boxes:
    """Boxes xyxy ``(..., 4)`` as (cx, cy, w, h)."""
    x1, y1, x2, y2 = (bbox[..., i] for i in range(4))
    return _stacked([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])


def get_box_wh(boxes: Boxes) -> tuple[Boxes, Boxes]:
    """Widths and heights ``(...,)`` of boxes ``(..., 4)``."""
    return boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]


def cat_boxes(data_list: Sequence[Boxes], dim: int = 0) -> Boxes:
    """Boxes of several sets in one.

    Raises:
        ValueError: There are none.
    """
    if len(data_list) == 0:
        raise ValueError("cat_boxes needs at least one set of boxes, got none")
    first = data_list[0]
    if isinstance(first, Tensor):
        return torch.cat(list(data_list), dim)
    return np.concatenate(list(data_list), dim)
