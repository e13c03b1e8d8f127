"""Which anchor answers for which ground truth."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Annotated, Any

import torch
from torch import Tensor

from det_models.overlaps import BboxOverlaps2D
from det_models.truth import GroundTruth
from detcore.registry import TASK_UTILS
from detcore.structures import InstanceData

# Images are matched together while their overlaps have at most so many entries: on the CPU what fits its
# cache.
_ENTRIES = {"cpu": 1 << 19}
_DEVICE_ENTRIES = 1 << 27


@dataclass(slots=True)
class AssignResult:
    """Who answers for what in one image.

    Attributes:
        num_gts: Number of ground truth boxes.
        gt_inds: ``LongTensor[A]``: number of the matched box plus one, 0 for background, -1 for neither.
        max_overlaps: ``Tensor[A]``, overlap with the closest box.
        labels: ``LongTensor[A]``, class of the matched box, -1 without one.
        extra: What an assigner has to say beyond that.
    """

    num_gts: int
    gt_inds: Tensor
    max_overlaps: Tensor
    labels: Tensor
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def num_preds(self) -> int:
        """Number of anchors or proposals."""
        return len(self.gt_inds)

    def add_gt_(self, gt_labels: Tensor) -> None:
        """Put the ground truth itself in front, each box matched to itself (proposals of an RCNN)."""
        own = torch.arange(1, len(gt_labels) + 1, device=gt_labels.device)
        self.gt_inds = torch.cat([own, self.gt_inds])
        self.max_overlaps = torch.cat([self.max_overlaps.new_ones(self.num_gts), self.max_overlaps])
        self.labels = torch.cat([gt_labels, self.labels])


class BaseAssigner(ABC):
    """Matches priors (anchors, points, proposals) with ground truth.

    An assigner defines :meth:`assign` for one image. One that can take the whole batch at once redefines
    :meth:`match` as well.
    """

    @abstractmethod
    def assign(
        self,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None = None,
        **kwargs: Any,
    ) -> AssignResult:
        """Match one image's ``pred_instances.priors`` (``Tensor[A, 4]``, xyxy) with ``gt_instances``."""

    def match(self, priors: Tensor, truth: GroundTruth, valid: Tensor | None = None) -> Tensor:
        """Match a batch.

        Args:
            priors: ``Tensor[A, 4]``, xyxy, the same for every image.
            truth: Ground truth of the B images.
            valid: ``BoolTensor[B, A]``, which priors take part; None for all.

        Returns:
            ``LongTensor[B, A]``: number of the matched box plus one, 0 for background, -1 for neither.
        """
        return match_each(self, priors, truth, valid)


def match_levels(
    assigner: Any, mlvl_priors: Sequence[Tensor], truth: GroundTruth, valid: Tensor | None = None
) -> Tensor:
    """:meth:`BaseAssigner.match` of the priors of all levels, by whatever of it the assigner has.

    Args:
        assigner: Asked for ``match_levels`` where it tells levels apart, else for ``match`` or ``assign``.
        mlvl_priors: ``Tensor[A_i, 4]`` a level, xyxy.
        truth: Ground truth of the B images.
        valid: ``BoolTensor[B, A]``, which priors take part; None for all.

    Returns:
        ``LongTensor[B, A]``.
    """
    if hasattr(assigner, "match_levels"):
        matches: Tensor = assigner.match_levels(mlvl_priors, truth, valid)
        return matches
    priors = torch.cat(list(mlvl_priors))
    match = getattr(assigner, "match", None)
    return match(priors, truth, valid) if match else match_each(assigner, priors, truth, valid)


def match_each(assigner: Any, priors: Tensor, truth: GroundTruth, valid: Tensor | None = None) -> Tensor:
    """:meth:`BaseAssigner.match` for any object with ``assign``, image by image.

    Priors may also be ``Tensor[B, A, 4]``, each image's own.
    """
    matches = torch.full((len(truth), priors.shape[-2]), -1, dtype=torch.long, device=priors.device)
    for number, instances in enumerate(truth.instances):
        ignored = None if truth.ignored_instances is None else truth.ignored_instances[number]
        chosen: Tensor | slice = slice(None) if valid is None else valid[number]
        own = priors[number] if priors.ndim == 3 else priors
        result = assigner.assign(InstanceData(priors=own[chosen]), instances, ignored)
        matches[number, chosen] = result.gt_inds
    return matches


class MaxIoUAssigner(BaseAssigner):
    """By overlap: Faster R-CNN (Ren et al. 2015), section 3.1.2.

    1. background where the greatest overlap is below ``neg_iou_thr``;
    2. the closest box where that overlap is at least ``pos_iou_thr``; between the two, neither;
    3. for every box, the anchors that overlap it most, where that is at least ``min_pos_iou`` and above 0
       (``match_low_quality``), so that no box is left without an anchor.

    Args:
        pos_iou_thr: Least overlap of a positive.
        neg_iou_thr: Overlap below which an anchor is background, or the (least, limit) of a range.
        min_pos_iou: Least overlap for rule 3.
        gt_max_assign_all: In rule 3, all anchors with the greatest overlap, or one of them.
        ignore_iof_thr: Part of an anchor (of the region where ``ignore_wrt_candidates`` is false) within an
            ignored region above which it is neither; negative: ignored regions are not looked at.
        ignore_wrt_candidates: Which of the two that part is taken of.
        match_low_quality: Whether rule 3 applies.
        gpu_assign_thr: Above this number of boxes an image is matched on the CPU, for the sake of GPU memory;
            negative for never.
        iou_calculator: Measures the overlaps.
    """

    def __init__(
        self,
        pos_iou_thr: float,
        neg_iou_thr: float | tuple[float, float],
        min_pos_iou: float = 0.0,
        gt_max_assign_all: bool = True,
        ignore_iof_thr: float = -1,
        ignore_wrt_candidates: bool = True,
        match_low_quality: bool = True,
        gpu_assign_thr: float = -1,
        iou_calculator: Annotated[BboxOverlaps2D | None, TASK_UTILS] = None,
    ) -> None:
        if isinstance(neg_iou_thr, Sequence):
            least, limit = neg_iou_thr
        else:
            least, limit = 0.0, neg_iou_thr
        if not 0 <= least <= limit <= pos_iou_thr:
            raise ValueError(
                f"thresholds must rise from 0: neg_iou_thr={neg_iou_thr}, pos_iou_thr={pos_iou_thr}"
            )
        self.pos_iou_thr = pos_iou_thr
        self.neg_range = (least, limit)
        self.min_pos_iou = min_pos_iou
        self.gt_max_assign_all = gt_max_assign_all
        self.ignore_iof_thr = ignore_iof_thr
        self.ignore_wrt_candidates = ignore_wrt_candidates
        self.match_low_quality = match_low_quality
        self.gpu_assign_thr = gpu_assign_thr
        self.iou_calculator = iou_calculator or BboxOverlaps2D()

    def assign(
        self,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None = None,
        **kwargs: Any,
    ) -> AssignResult:
        """Match one image; ``gt_instances_ignore.bboxes`` are the ignored regions."""
        return self._assign(pred_instances.priors, gt_instances, gt_instances_ignore)

    def _assign(
        self,
        priors: Tensor,
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None,
        approxs: Tensor | None = None,
    ) -> AssignResult:
        """Match one image's priors ``Tensor[A, 4]``; ``approxs`` as in :meth:`_match_images`."""
        truth = GroundTruth.pack(
            [gt_instances], None if gt_instances_ignore is None else [gt_instances_ignore]
        )
        matches, overlaps = self._match_images(priors, truth, slice(0, 1), None, approxs)
        return AssignResult(
            num_gts=truth.counts[0],
            gt_inds=matches[0],
            max_overlaps=overlaps[0],
            labels=truth.labels_at(matches, -1)[0],
        )

    @torch.no_grad()
    def match(self, priors: Tensor, truth: GroundTruth, valid: Tensor | None = None) -> Tensor:
        """Match a batch; see :meth:`BaseAssigner.match`.

        Priors may also be ``Tensor[B, A, 4]``, each image's own.
        """
        return self._match(priors, truth, valid)

    def _match(
        self, priors: Tensor, truth: GroundTruth, valid: Tensor | None, approxs: Tensor | None = None
    ) -> Tensor:
        """:meth:`match`, as many images at once as fit; ``approxs`` as in :meth:`_match_images`."""
        entries = _ENTRIES.get(priors.device.type, _DEVICE_ENTRIES)
        step = max(1, entries // max(1, truth.boxes.shape[1] * priors.shape[-2]))
        parts = []
        for start in range(0, len(truth), step):
            images = slice(start, start + step)
            own = priors[images] if priors.ndim == 3 else priors
            parts.append(self._match_images(own, truth, images, valid, approxs)[0])
        return torch.cat(parts)

    def _match_images(
        self,
        priors: Tensor,
        truth: GroundTruth,
        images: slice,
        valid: Tensor | None,
        approxs: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Matches ``LongTensor[b, A]`` and greatest overlaps ``Tensor[b, A]`` of some of the images.

        With ``approxs`` (``Tensor[A, K, 4]``) a prior overlaps a box as the best of its K shapes does.
        """
        num_boxes = max(1, *truth.counts[images]) if truth.counts[images] else 1
        home = priors.device
        device = torch.device("cpu") if 0 < self.gpu_assign_thr < num_boxes else home
        priors = priors.to(device)
        boxes, mask = truth.boxes[images, :num_boxes].to(device), truth.mask[images, :num_boxes].to(device)
        shapes = [priors] if approxs is None else approxs.to(device).unbind(1)
        overlaps = reduce(torch.maximum, (self.iou_calculator(boxes, each) for each in shapes))
        left_out = None if valid is None else ~valid[images].to(device)
        if truth.ignored is not None and self.ignore_iof_thr > 0:
            ignored = self._in_ignored_region(truth.ignored[images].to(device), priors)
            left_out = ignored if left_out is None else left_out | ignored
        if left_out is not None:
            overlaps = overlaps.masked_fill(left_out[:, None], -1)
        matches, best = self._from_overlaps(overlaps, mask)
        return matches.to(home), best.to(home)

    def _in_ignored_region(self, regions: Tensor, priors: Tensor) -> Tensor:
        if self.ignore_wrt_candidates:
            parts = self.iou_calculator(priors.expand(len(regions), -1, -1), regions, mode="iof").amax(-1)
        else:
            parts = self.iou_calculator(regions, priors, mode="iof").amax(-2)
        return parts > self.ignore_iof_thr

    def _from_overlaps(self, overlaps: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Rules 1 to 3 on overlaps ``Tensor[b, G, A]`` (-1: left out); ``mask`` tells boxes from padding."""
        best, closest = overlaps.max(
            1
        )  # padding overlaps nothing, so that an image without boxes is background
        least, limit = self.neg_range
        matches = torch.full_like(closest, -1)
        matches.masked_fill_((best >= least) & (best < limit), 0)
        matches = torch.where(best >= self.pos_iou_thr, closest + 1, matches)
        if self.match_low_quality:
            most, place = overlaps.max(2, keepdim=True)
            counts = (most >= self.min_pos_iou) & (most > 0) & mask[..., None]
            if self.gt_max_assign_all:
                hit = overlaps == most.masked_fill(~counts, 2)  # which no overlap is
            else:
                hit = torch.zeros_like(overlaps, dtype=torch.bool).scatter_(2, place, counts)
            numbers = torch.arange(1, overlaps.shape[1] + 1, dtype=torch.int32, device=overlaps.device)
            last = (hit * numbers[:, None]).amax(1)  # of several boxes, the one that comes last in the image
            matches = torch.where(last > 0, last.long(), matches)
        return matches, best.clamp(min=0)
