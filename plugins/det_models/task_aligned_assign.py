"""Which anchors answer for which object by how well score and box agree: TOOD's task alignment learning."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from det_models.assign import AssignResult, BaseAssigner
from det_models.atss_assign import Claims, centers_inside, strongest_claims
from det_models.dynamic_k_assign import of_labels
from det_models.overlaps import BboxOverlaps2D
from det_models.truth import GroundTruth
from detcore.registry import TASK_UTILS
from detcore.structures import InstanceData

_LEAST = 1e-7  # added to an object's best metric, which those of its priors are divided by


@dataclass(slots=True)
class AlignedMatches:
    """What A priors of B images answer for, and how well they do.

    Attributes:
        matches: ``LongTensor[B, A]``, number of the box plus one, 0 for background, -1 for neither.
        overlaps: ``Tensor[B, A]``, IoU of the predicted box with it, 0 without one.
        metrics: ``Tensor[B, A]``, how well score and box agree, 0 without one.
    """

    matches: Tensor
    overlaps: Tensor
    metrics: Tensor


class TaskAlignedAssigner(BaseAssigner):
    """Task-aligned sample assignment: TOOD (Feng et al. 2021), section 3.2.

    For every object the ``topk`` priors with the greatest ``score^alpha * IoU^beta`` (eq. 8), of what they
    predict for it, answer for it if their centre is inside of it. A prior that several objects have chosen
    answers for the one that its box overlaps most.

    Args:
        topk: Priors of each object at most.
        iou_calculator: Measures the overlaps.

    Raises:
        ValueError: There would be no prior.
    """

    def __init__(
        self, topk: int, iou_calculator: Annotated[BboxOverlaps2D | None, TASK_UTILS] = None
    ) -> None:
        if topk < 1:
            raise ValueError(f"topk is a number of priors, at least 1, got {topk}")
        self.topk = topk
        self.iou_calculator = iou_calculator or BboxOverlaps2D()

    def assign(
        self,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None = None,
        alpha: float = 1,
        beta: float = 6,
        **kwargs: Any,
    ) -> AssignResult:
        """Match one image.

        Args:
            pred_instances: ``priors`` (``Tensor[A, 4]``, xyxy), and what they predict: ``bboxes``
                (``Tensor[A, 4]``, xyxy) and ``scores`` (``Tensor[A, C]``, in 0..1).
            gt_instances: ``bboxes`` and ``labels``.
            gt_instances_ignore: Not looked at.
            alpha: Power of the scores.
            beta: Power of the overlaps.
            **kwargs: Have no effect.

        Returns:
            Also, in ``extra``, ``assign_metrics`` (``Tensor[A]``), how well each does; 0 without a box.
        """
        truth = GroundTruth.pack([gt_instances])
        given = pred_instances.priors, pred_instances.bboxes[None], pred_instances.scores[None]
        found = self.match_predictions(*given, truth, alpha=alpha, beta=beta)
        return AssignResult(
            num_gts=truth.counts[0],
            gt_inds=found.matches[0],
            max_overlaps=found.overlaps[0],
            labels=truth.labels_at(found.matches, -1)[0],
            extra={"assign_metrics": found.metrics[0]},
        )

    @torch.no_grad()
    def match_predictions(
        self,
        priors: Tensor,
        boxes: Tensor,
        scores: Tensor,
        truth: GroundTruth,
        valid: Tensor | None = None,
        *,
        alpha: float = 1,
        beta: float = 6,
    ) -> AlignedMatches:
        """Match a batch.

        Args:
            priors: ``Tensor[A, 4]``, xyxy, the same for every image.
            boxes: ``Tensor[B, A, 4]``, predicted, xyxy.
            scores: ``Tensor[B, A, C]``, predicted, in 0..1.
            truth: Ground truth of the B images.
            valid: ``BoolTensor[B, A]``, which priors take part; None for all.
            alpha: Power of the scores.
            beta: Power of the overlaps.
        """
        overlaps = self.iou_calculator(truth.boxes, boxes.float())
        metrics = of_labels(scores.float(), truth.labels) ** alpha * overlaps**beta
        counted = truth.mask[..., None] if valid is None else truth.mask[..., None] & valid[:, None]
        metrics = torch.where(counted, metrics, 0)
        best, places = metrics.topk(min(self.topk, len(priors)))
        held = (best > 0) & centers_inside(priors[places], truth.boxes)
        matches, overlap = strongest_claims(Claims(places, overlaps.gather(-1, places), held), len(priors))
        metric = metrics.gather(1, (matches - 1).clamp(min=0)[:, None])[:, 0]
        metric = torch.where(matches > 0, metric, 0)
        if valid is not None:
            matches = matches.masked_fill(~valid, -1)
        return AlignedMatches(matches, overlap, metric)


def scaled_metrics(found: AlignedMatches, num_boxes: int) -> Tensor:
    """Metrics ``Tensor[B, A]``, the best of each object as great as the best overlap of its priors: eq. 9.

    Args:
        found: What the priors answer for.
        num_boxes: G, the boxes of the fullest image.
    """
    positive = found.matches > 0
    number = (found.matches - 1).clamp(min=0)
    metrics = torch.where(positive, found.metrics, 0)
    nothing = metrics.new_zeros(len(metrics), num_boxes)
    best = nothing.scatter_reduce(1, number, metrics, "amax")
    overlaps = nothing.scatter_reduce(1, number, torch.where(positive, found.overlaps, 0), "amax")
    return metrics / (best.gather(1, number) + _LEAST) * overlaps.gather(1, number)
