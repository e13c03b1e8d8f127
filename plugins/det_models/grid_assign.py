"""Which anchors answer for which object where cells are responsible for what is in them: YOLO."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from det_models.assign import AssignResult, BaseAssigner
from det_models.overlaps import BboxOverlaps2D
from det_models.truth import GroundTruth
from detcore.registry import TASK_UTILS
from detcore.structures import InstanceData

# Images are matched together while their overlaps have at most so many entries.
_ENTRIES = 1 << 26


class GridAssigner(BaseAssigner):
    """By overlap, among the anchors of cells in which the centre of an object is: YOLOv3, section 2.1.

    1. background where the greatest overlap is at most ``neg_iou_thr``;
    2. of the responsible anchors: the closest box where that overlap is above ``pos_iou_thr``;
    3. for every box, the responsible anchors that overlap it most, where that is above ``min_pos_iou``;
    4. neither, all others.

    Args:
        pos_iou_thr: Overlap above which a responsible anchor is a positive.
        neg_iou_thr: Greatest overlap of background, or the (limit, greatest) of a range.
        min_pos_iou: Overlap above which rule 3 applies.
        gt_max_assign_all: In rule 3, all anchors with the greatest overlap, or one of them.
        iou_calculator: Measures the overlaps.
    """

    def __init__(
        self,
        pos_iou_thr: float,
        neg_iou_thr: float | tuple[float, float],
        min_pos_iou: float = 0.0,
        gt_max_assign_all: bool = True,
        iou_calculator: Annotated[BboxOverlaps2D | None, TASK_UTILS] = None,
    ) -> None:
        if isinstance(neg_iou_thr, Sequence):
            least, limit = neg_iou_thr
        else:
            least, limit = -1.0, neg_iou_thr  # an overlap of 0 is background, too
        if not least <= limit <= pos_iou_thr or limit < 0:
            raise ValueError(
                f"thresholds must rise from 0: neg_iou_thr={neg_iou_thr}, pos_iou_thr={pos_iou_thr}"
            )
        self.pos_iou_thr = pos_iou_thr
        self.neg_range = (least, limit)
        self.min_pos_iou = min_pos_iou
        self.gt_max_assign_all = gt_max_assign_all
        self.iou_calculator = iou_calculator or BboxOverlaps2D()

    def assign(
        self,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None = None,
        **kwargs: Any,
    ) -> AssignResult:
        """Match one image.

        Args:
            pred_instances: ``priors`` (``Tensor[A, 4]``, xyxy) and ``responsible_flags`` (``[A]``).
            gt_instances: ``bboxes`` and ``labels``.
            gt_instances_ignore: Not looked at.
            **kwargs: Not looked at.

        Raises:
            ValueError: There are no flags.
        """
        if "responsible_flags" not in pred_instances:
            raise ValueError(
                "GridAssigner needs pred_instances.responsible_flags, which anchors are of cells with an "
                f"object; got {sorted(pred_instances.keys())}. YOLOV3Head gives them"
            )
        truth = GroundTruth.pack([gt_instances])
        flags = pred_instances.responsible_flags.bool()[None]
        matches, overlaps = self._match_images(pred_instances.priors, truth, flags, slice(0, 1))
        return AssignResult(
            num_gts=truth.counts[0],
            gt_inds=matches[0],
            max_overlaps=overlaps[0],
            labels=truth.labels_at(matches, -1)[0],
        )

    @torch.no_grad()
    def match_responsible(self, priors: Tensor, truth: GroundTruth, responsible: Tensor) -> Tensor:
        """Match a batch.

        Args:
            priors: ``Tensor[A, 4]``, xyxy, the same for every image.
            truth: Ground truth of the B images.
            responsible: ``BoolTensor[B, A]``, which anchors are of cells with the centre of an object.

        Returns:
            ``LongTensor[B, A]``: number of the matched box plus one, 0 for background, -1 for neither.
        """
        step = max(1, _ENTRIES // max(1, truth.boxes.shape[1] * len(priors)))
        parts = [
            self._match_images(priors, truth, responsible, slice(start, start + step))[0]
            for start in range(0, len(truth), step)
        ]
        return torch.cat(parts)

    def _match_images(
        self, priors: Tensor, truth: GroundTruth, responsible: Tensor, images: slice
    ) -> tuple[Tensor, Tensor]:
        """Matches ``LongTensor[b, A]`` of some of the images, and overlaps of responsible anchors."""
        mask = truth.mask[images]
        overlaps = self.iou_calculator(truth.boxes[images], priors)
        least, limit = self.neg_range
        best = overlaps.amax(1)  # padding overlaps nothing
        background = (best > least) & (best <= limit) | ~mask.any(1, keepdim=True)
        overlaps = overlaps.masked_fill(~responsible[images, None], -1)
        best, closest = overlaps.max(1)
        matches = background.long() - 1
        matches = torch.where(best > self.pos_iou_thr, closest + 1, matches)
        last = self._closest_priors(overlaps, mask)
        return torch.where(last > 0, last, matches), best.clamp(min=0)

    def _closest_priors(self, overlaps: Tensor, mask: Tensor) -> Tensor:
        """Rule 3 on overlaps ``Tensor[b, G, A]`` (-1: not responsible); numbers of boxes, 0 for none."""
        most, place = overlaps.max(2, keepdim=True)
        counts = (most > self.min_pos_iou) & (most >= 0) & mask[..., None]
        if self.gt_max_assign_all:
            hit = overlaps == most.masked_fill(~counts, 2)  # which no overlap is
        else:
            hit = torch.zeros_like(overlaps, dtype=torch.bool).scatter_(2, place, counts)
        numbers = torch.arange(1, overlaps.shape[1] + 1, device=overlaps.device)
        return (hit * numbers[:, None]).amax(1)  # of several boxes, the one that comes last in the image
