"""SimOTA, which of YOLOX's predictions answers for which object (Ge et al. 2021, arXiv 2107.08430)."""

from typing import Annotated

from torch import Tensor

from det_models.dynamic_k_assign import DynamicKAssigner, Pairs, of_labels, points_inside
from det_models.overlaps import BboxOverlaps2D
from detcore.registry import TASK_UTILS

_FAR = 1e5  # cost of a point that is not both in the box and near its centre
_EPS = 1e-7
_LEAST_LOG = -100.0  # of a probability, as torch's cross entropy has it


class SimOTAAssigner(DynamicKAssigner):
    """Optimal transport made simple: YOLOX, section 2.1.

    The cost of a prediction for an object is, eq. 1, ``c = L_cls + lambda L_reg``, its losses of class and
    box (``-log IoU``), and very much more where its point is not in the box and within ``center_radius``
    strides of its centre. A point that is neither in a box nor near the centre of one is background. How many
    predictions an object gets: see :class:`DynamicKAssigner`.

    Scores are probabilities.

    Args:
        center_radius: How near to the centre, in strides, along each axis.
        candidate_topk: Greatest overlaps that the number of an object's predictions is the sum of.
        iou_weight: lambda.
        cls_weight: Factor of the loss of the class.
        iou_calculator: Measures the overlaps.

    Raises:
        ValueError: There would be no candidate.
    """

    def __init__(
        self,
        center_radius: float = 2.5,
        candidate_topk: int = 10,
        iou_weight: float = 3.0,
        cls_weight: float = 1.0,
        iou_calculator: Annotated[BboxOverlaps2D | None, TASK_UTILS] = None,
    ) -> None:
        if candidate_topk < 1:
            raise ValueError(f"candidate_topk is a number of candidates, at least 1, got {candidate_topk}")
        self.center_radius = center_radius
        self.topk = candidate_topk
        self.iou_weight = iou_weight
        self.cls_weight = cls_weight
        self.iou_calculator = iou_calculator or BboxOverlaps2D()

    def pairs(
        self, priors: Tensor, boxes: Tensor, scores: Tensor, gt_boxes: Tensor, labels: Tensor
    ) -> Pairs:
        """Weigh the pairs of some images; see :meth:`DynamicKAssigner.pairs`."""
        inside = points_inside(priors, gt_boxes)
        centers = (gt_boxes[..., :2] + gt_boxes[..., 2:]) / 2
        reach = self.center_radius * priors[:, 2:]
        offsets = (priors[:, :2] - centers[:, :, None]).abs()
        central = (offsets < reach).all(-1)
        overlaps = self.iou_calculator(gt_boxes, boxes)
        yes = scores.log().clamp(min=_LEAST_LOG)
        no = (-scores).log1p().clamp(min=_LEAST_LOG)
        # Cross entropy over all classes, of which only the object's own differs between objects.
        entropy = of_labels(no - yes, labels) - no.sum(-1)[:, None]
        costs = self.cls_weight * entropy - self.iou_weight * (overlaps + _EPS).log()
        costs = costs + _FAR * ~(inside & central)
        return Pairs(costs=costs, overlaps=overlaps, open=inside | central)
