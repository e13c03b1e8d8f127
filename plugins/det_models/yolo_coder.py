"""Between boxes and what YOLO regresses."""

import torch
from torch import Tensor

from det_models.coders import BaseBBoxCoder


class YOLOBBoxCoder(BaseBBoxCoder):
    """Place of the centre within its cell, and logarithm of the change of size.

    YOLOv3 (Redmon and Farhadi 2018), section 2.1: ``b_x = sigmoid(t_x) + c_x`` in cells, and
    ``b_w = p_w exp(t_w)``, likewise y and h, for the cell's corner c and the anchor's size p. Encoded is
    ``sigmoid(t_x)``, 0 to 1, which a head is to have applied before it decodes.

    Args:
        eps: Distance that encoded places keep from 0 and 1, and least change of size.
    """

    def __init__(self, eps: float = 1e-6) -> None:
        self.eps = eps

    def encode(  # type: ignore[override]  # places are in cells
        self, bboxes: Tensor, gt_bboxes: Tensor, stride: Tensor | float
    ) -> Tensor:
        """Place (x, y) within the cell and logarithms of the change of width and height, ``Tensor[..., 4]``.

        Args:
            bboxes: Anchors ``Tensor[..., 4]``, xyxy, absolute pixels, in the middle of their cells.
            gt_bboxes: ``Tensor[..., 4]``, xyxy, absolute pixels.
            stride: Side of a cell in pixels, one for all or ``Tensor[..., 1]``.
        """
        center, size = _center_size(bboxes)
        gt_center, gt_size = _center_size(gt_bboxes)
        place = (gt_center - center) / stride + 0.5
        change = torch.log((gt_size / size).clamp(min=self.eps))
        return torch.cat((place.clamp(self.eps, 1 - self.eps), change), dim=-1)

    def decode(  # type: ignore[override]  # places are in cells
        self, bboxes: Tensor, pred_bboxes: Tensor, stride: Tensor | float
    ) -> Tensor:
        """Boxes ``Tensor[..., 4]`` (xyxy, absolute pixels) that encoded ones mean.

        Args:
            bboxes: Anchors ``Tensor[..., 4]``, xyxy, absolute pixels.
            pred_bboxes: ``Tensor[..., 4]``, places within the cell and logarithms of the change of size.
            stride: Side of a cell in pixels, one for all or ``Tensor[..., 1]``.
        """
        center, size = _center_size(bboxes)
        center = center + (pred_bboxes[..., :2] - 0.5) * stride
        half = size * 0.5 * pred_bboxes[..., 2:].exp()
        return torch.cat((center - half, center + half), dim=-1)


def _center_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[..., :2] + boxes[..., 2:]) * 0.5, boxes[..., 2:] - boxes[..., :2]
