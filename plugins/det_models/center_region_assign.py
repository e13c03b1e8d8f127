"""Which cells answer for which object by the object's middle part: FSAF."""

from typing import Annotated, Any

import torch
from torch import Tensor

from det_models.assign import AssignResult, BaseAssigner
from det_models.overlaps import BboxOverlaps2D
from det_models.points import centers_of
from det_models.truth import GroundTruth
from detcore.registry import TASK_UTILS
from detcore.structures import InstanceData


class CenterRegionAssigner(BaseAssigner):
    """Cells in the middle part of an object answer for it, those around may be anything: FSAF, section 3.2.

    A prior whose centre is in the object and that lies in its core (the box shrunk about its centre to
    ``pos_scale``) by more than ``min_pos_iof`` of its own area answers for the object; in the cores of
    several for the smallest. What lies in an object's outer part (the box shrunk to ``neg_scale``) or in the
    core of an object that it does not answer for is shadowed: it is background but for the classes of those
    objects, which are not counted against it.

    Args:
        pos_scale: Size of the core in parts of the box.
        neg_scale: Size of the part that shadows.
        min_pos_iof: Least part of a prior's area that lies in them.
        ignore_gt_scale: Size of the part of an ignored region in which centres are neither object nor
            background.
        foreground_dominate: A prior that answers for an object in the shadow of another of its class goes on
            to answer for it; otherwise it is shadowed.
        iou_calculator: Measures the overlaps.
    """

    def __init__(
        self,
        pos_scale: float,
        neg_scale: float,
        min_pos_iof: float = 1e-2,
        ignore_gt_scale: float = 0.5,
        foreground_dominate: bool = False,
        iou_calculator: Annotated[BboxOverlaps2D | None, TASK_UTILS] = None,
    ) -> None:
        self.pos_scale = pos_scale
        self.neg_scale = neg_scale
        self.min_pos_iof = min_pos_iof
        self.ignore_gt_scale = ignore_gt_scale
        self.foreground_dominate = foreground_dominate
        self.iou_calculator = iou_calculator or BboxOverlaps2D()

    def assign(
        self,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None = None,
        **kwargs: Any,
    ) -> AssignResult:
        """Match one image; see :meth:`BaseAssigner.assign`.

        Returns:
            With ``extra['shadowed_labels']``, ``LongTensor[M, 2]``: priors and classes that do not count.
        """
        ignored = None if gt_instances_ignore is None else [gt_instances_ignore]
        truth = GroundTruth.pack([gt_instances], ignored)
        priors = pred_instances.priors
        matches, shadows = self.match_with_shadows(priors, truth)
        place, number = torch.nonzero(shadows[0], as_tuple=True)
        return AssignResult(
            num_gts=truth.counts[0],
            gt_inds=matches[0],
            max_overlaps=(matches[0] > 0).to(priors.dtype),
            labels=truth.labels_at(matches, -1)[0],
            extra={"shadowed_labels": torch.stack((place, truth.labels[0][number]), dim=1)},
        )

    def match(self, priors: Tensor, truth: GroundTruth, valid: Tensor | None = None) -> Tensor:
        """Match a batch; see :meth:`BaseAssigner.match`."""
        return self.match_with_shadows(priors, truth, valid)[0]

    @torch.no_grad()
    def match_with_shadows(
        self, priors: Tensor, truth: GroundTruth, valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Match a batch.

        Args:
            priors: ``Tensor[A, 4]``, xyxy, the same for every image.
            truth: Ground truth of the B images, of G boxes each.
            valid: ``BoolTensor[B, A]``, which priors take part; None for all.

        Returns:
            ``LongTensor[B, A]``: number of the matched box plus one, 0 for background, -1 for neither; and
            ``BoolTensor[B, A, G]``, which boxes' classes are not counted against which prior.
        """
        everywhere, centers = priors.expand(len(truth), -1, -1), centers_of(priors)
        core = centers_in(centers, truth.boxes) & self._lie_in(everywhere, truth, self.pos_scale)
        outer = self._lie_in(everywhere, truth, self.neg_scale) & ~core
        area = (truth.boxes[..., 2] - truth.boxes[..., 0]) * (truth.boxes[..., 3] - truth.boxes[..., 1])
        smallest, number = torch.where(core, area[:, None], torch.inf).min(-1)
        matches = torch.where(smallest < torch.inf, number + 1, 0)
        if truth.ignored is not None:
            regions = scaled(truth.ignored, self.ignore_gt_scale)
            matches = matches.masked_fill(centers_in(centers, regions).any(-1), -1)
        own = torch.zeros_like(core).scatter(2, number[..., None], (smallest < torch.inf)[..., None])
        shadows = outer | (core & ~own)
        same_class = shadows & (truth.labels[:, None] == truth.labels_at(matches, -1)[..., None])
        if self.foreground_dominate:
            shadows &= ~same_class
        else:
            matches = torch.where(same_class.any(-1), 0, matches)
        return matches if valid is None else matches.masked_fill(~valid, -1), shadows

    def _lie_in(self, priors: Tensor, truth: GroundTruth, scale: float) -> Tensor:
        """Whether priors ``Tensor[B, A, 4]`` lie in the middle part of boxes, ``BoolTensor[B, A, G]``."""
        parts = self.iou_calculator(priors, scaled(truth.boxes, scale), mode="iof")
        return (parts > self.min_pos_iof) & truth.mask[:, None]


def scaled(boxes: Tensor, scale: float) -> Tensor:
    """Boxes ``Tensor[..., 4]``, xyxy, shrunk or grown about their centres."""
    center, half = centers_of(boxes), (boxes[..., 2:] - boxes[..., :2]) * (0.5 * scale)
    return torch.cat((center - half, center + half), dim=-1)


def centers_in(points: Tensor, boxes: Tensor) -> Tensor:
    """Whether points ``Tensor[A, 2]`` are inside of boxes ``Tensor[B, G, 4]``: ``BoolTensor[B, A, G]``."""
    x, y = points[:, :1], points[:, 1:]
    left, top, right, bottom = boxes[:, None].unbind(-1)
    return (x > left) & (x < right) & (y > top) & (y < bottom)
