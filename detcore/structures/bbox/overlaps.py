"""How much boxes overlap."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def bbox_overlaps(
    bboxes1: Tensor,
    bboxes2: Tensor,
    mode: Literal["iou", "iof", "giou"] = "iou",
    is_aligned: bool = False,
    eps: float = 1e-6,
) -> Tensor:
    """Overlaps of two sets of boxes.

    Half-precision boxes are computed in float32: an area of 300 x 300 pixels exceeds float16.

    Args:
        bboxes1: ``Tensor[..., M, 4]``, xyxy; leading dimensions are batches and broadcast.
        bboxes2: ``Tensor[..., N, 4]``, xyxy; ``N`` equals ``M`` where ``is_aligned``.
        mode: ``'iou'`` (over the union), ``'iof'`` (over the area of ``bboxes1``), or ``'giou'`` (generalised
            IoU, Rezatofighi et al. 2019, between -1 and 1).
        is_aligned: Compare box i with box i instead of every one with every one.
        eps: Smallest denominator, so that empty boxes give 0 and not NaN.

    Returns:
        ``Tensor[..., M, N]``, or ``Tensor[..., M]`` where ``is_aligned``.

    Raises:
        ValueError: The mode is unknown, or the shapes do not fit.
    """
    if mode not in ("iou", "iof", "giou"):
        raise ValueError(f"mode must be 'iou', 'iof' or 'giou', got {mode!r}")
    for name, boxes in (("bboxes1", bboxes1), ("bboxes2", bboxes2)):
        if boxes.dim() < 2 or boxes.size(-1) != 4:
            raise ValueError(f"{name} must be [..., N, 4], got shape {tuple(boxes.shape)}")
    if is_aligned and bboxes1.size(-2) != bboxes2.size(-2):
        raise ValueError(f"aligned boxes need equal numbers, got {bboxes1.size(-2)} and {bboxes2.size(-2)}")
    if bboxes1.dtype in (torch.float16, torch.bfloat16) or bboxes2.dtype in (torch.float16, torch.bfloat16):
        bboxes1, bboxes2 = bboxes1.float(), bboxes2.float()

    area1 = (bboxes1[..., 2] - bboxes1[..., 0]) * (bboxes1[..., 3] - bboxes1[..., 1])
    area2 = (bboxes2[..., 2] - bboxes2[..., 0]) * (bboxes2[..., 3] - bboxes2[..., 1])
    if not is_aligned:
        bboxes1, bboxes2 = bboxes1.unsqueeze(-2), bboxes2.unsqueeze(-3)
        area1, area2 = area1.unsqueeze(-1), area2.unsqueeze(-2)
    lower = torch.maximum(bboxes1[..., :2], bboxes2[..., :2])
    sides = (torch.minimum(bboxes1[..., 2:], bboxes2[..., 2:]) - lower).clamp(min=0)
    overlap = sides[..., 0] * sides[..., 1]
    if mode == "iof":
        return overlap / area1.clamp(min=eps)
    union = (area1 + area2 - overlap).clamp(min=eps)
    iou = overlap / union
    if mode == "iou":
        return iou
    corner = torch.minimum(bboxes1[..., :2], bboxes2[..., :2])
    hull = (torch.maximum(bboxes1[..., 2:], bboxes2[..., 2:]) - corner).clamp(min=0)
    hull_area = (hull[..., 0] * hull[..., 1]).clamp(min=eps)
    return iou - (hull_area - union) / hull_area
