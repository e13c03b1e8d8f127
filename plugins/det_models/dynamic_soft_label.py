"""Which of RTMDet's predictions answers for which object (Lyu et al. 2022, arXiv 2212.07784)."""

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor

from det_models.dynamic_k_assign import DynamicKAssigner, Pairs, of_labels, points_inside
from det_models.overlaps import BboxOverlaps2D
from detcore.registry import TASK_UTILS

_EPS = 1e-7


class DynamicSoftLabelAssigner(DynamicKAssigner):
    """SimOTA with soft labels: RTMDet, section 3.3.

    The cost of a prediction for an object is the sum of three, eq. 1, with the IoU of its box as Y and its
    probabilities as P::

        class    CE(P, Y) (Y - P)^2, where Y belongs to the object's class and 0 to the others      eq. 2
        box      -log(Y), times lambda                                                              eq. 4
        place    alpha^(d - beta), alpha = 10, for d strides between its point and the centre       eq. 5

    A point that is in no box is background. How many predictions an object gets: see
    :class:`DynamicKAssigner`. Scores are logits.

    Args:
        soft_center_radius: beta.
        topk: Greatest overlaps that the number of an object's predictions is the sum of.
        iou_weight: lambda.
        iou_calculator: Measures the overlaps.

    Raises:
        ValueError: There would be no candidate.
    """

    def __init__(
        self,
        soft_center_radius: float = 3.0,
        topk: int = 13,
        iou_weight: float = 3.0,
        iou_calculator: Annotated[BboxOverlaps2D | None, TASK_UTILS] = None,
    ) -> None:
        if topk < 1:
            raise ValueError(f"topk is a number of candidates, at least 1, got {topk}")
        self.soft_center_radius = soft_center_radius
        self.topk = topk
        self.iou_weight = iou_weight
        self.iou_calculator = iou_calculator or BboxOverlaps2D()

    def pairs(
        self, priors: Tensor, boxes: Tensor, scores: Tensor, gt_boxes: Tensor, labels: Tensor
    ) -> Pairs:
        """Weigh the pairs of some images; see :meth:`DynamicKAssigner.pairs`."""
        overlaps = self.iou_calculator(gt_boxes, boxes)
        # Classes are compared with 0, of which only the object's own differs between objects.
        absent = F.softplus(scores) * scores.sigmoid().square()
        own = of_labels(scores, labels)
        present = F.binary_cross_entropy_with_logits(own, overlaps, reduction="none")
        present = present * (overlaps - own.sigmoid()).square()
        class_cost = present + absent.sum(-1)[:, None] - of_labels(absent, labels)
        box_cost = -self.iou_weight * (overlaps + _EPS).log()
        centers = (gt_boxes[..., :2] + gt_boxes[..., 2:]) / 2
        distances = (priors[:, :2] - centers[:, :, None]).square().sum(-1).sqrt() / priors[:, 2]
        place_cost = 10 ** (distances - self.soft_center_radius)
        return Pairs(
            costs=class_cost + box_cost + place_cost,
            overlaps=overlaps,
            open=points_inside(priors, gt_boxes),
        )
