"""Overlaps of many boxes with many, made for matching (no gradient)."""

from typing import Literal

import torch
from torch import Tensor

from detcore.structures.bbox import bbox_overlaps

Mode = Literal["iou", "iof", "giou"]


class BboxOverlaps2D:
    """How much each of one set of boxes overlaps each of another."""

    def __call__(
        self, bboxes1: Tensor, bboxes2: Tensor, mode: Mode = "iou", is_aligned: bool = False
    ) -> Tensor:
        """Overlaps ``Tensor[..., M, N]`` (``[..., M]`` where aligned).

        Args:
            bboxes1: ``Tensor[..., M, 4]``, xyxy.
            bboxes2: ``Tensor[..., N, 4]``, xyxy.
            mode: ``'iou'``, ``'iof'`` (over the area of ``bboxes1``) or ``'giou'``.
            is_aligned: Compare box i with box i.
        """
        if is_aligned or mode == "giou" or bboxes1.requires_grad or bboxes2.requires_grad:
            return bbox_overlaps(bboxes1, bboxes2, mode=mode, is_aligned=is_aligned)
        return _pairwise(bboxes1.float(), bboxes2.float(), over_union=mode == "iou")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _pairwise(boxes1: Tensor, boxes2: Tensor, over_union: bool, eps: float = 1e-6) -> Tensor:
    # A coordinate a tensor: with the coordinates innermost, as in the boxes, this takes four to twelve times
    # as long.
    left1, top1, right1, bottom1 = boxes1[..., None].unbind(-2)
    left2, top2, right2, bottom2 = (each.unsqueeze(-2) for each in boxes2.movedim(-1, 0).contiguous())
    width = torch.minimum(right1, right2).sub_(torch.maximum(left1, left2)).clamp_(min=0)
    height = torch.minimum(bottom1, bottom2).sub_(torch.maximum(top1, top2)).clamp_(min=0)
    overlap = width.mul_(height)
    area1 = (right1 - left1) * (bottom1 - top1)
    if not over_union:
        return overlap.div_(area1.clamp(min=eps))
    area2 = (right2 - left2) * (bottom2 - top2)
    union = torch.add(area1, area2).sub_(overlap).clamp_(min=eps)
    return overlap.div_(union)
