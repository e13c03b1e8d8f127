"""Boxes under a homography; tensors and arrays alike."""
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from detcore.structures.bbox.kinds import Boxes, stacked
from detcore.structures.bbox.transforms import bbox_clip


def bbox2corner(bboxes: Boxes) -> Boxes:
    """Corners ``(..., 4, 2)`` of boxes ``(..., 4)``: upper left, upper right, lower left, lower right."""
    x1, y1, x2, y2 = (bboxes[..., i] for i in range(4))
    flat = stacked([x1, y1, x2, y1, x1, y2, x2, y2])
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
