"""Equally many positives for every object, by distance alone: YOLOF's uniform matching."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from det_models.assign import AssignResult, BaseAssigner
from det_models.overlaps import BboxOverlaps2D
from det_models.truth import GroundTruth
from detcore.registry import TASK_UTILS
from detcore.structures import InstanceData
from detcore.structures.bbox import bbox_xyxy_to_cxcywh


@dataclass(slots=True)
class UniformMatches:
    """What A priors of B images answer for, and P = 2 * ``match_times`` * G pairs of prior and box.

    Attributes:
        matches: ``LongTensor[B, A]``, number of the box plus one, 0 for background, -1 for neither.
        places: ``LongTensor[B, P]``, the prior of each pair.
        boxes: ``LongTensor[B, P]``, its box, from 0.
        held: ``BoolTensor[B, P]``, which pairs count. One prior may be in several.
    """

    matches: Tensor
    places: Tensor
    boxes: Tensor
    held: Tensor


class UniformAssigner(BaseAssigner):
    """Uniform matching: YOLOF (Chen et al. 2021), section 4.3.

    For every object the ``match_times`` priors that are nearest to it, and the ``match_times`` whose
    predicted boxes are, answer for it. Nearness is the L1 distance of (centre x, centre y, width, height).
    What overlaps it too little as a prior is taken out again. A prior that several objects have chosen
    answers for the one whose choice comes last, in the order of nearness, then predictions before priors,
    then objects. Of all others, those whose predicted box overlaps an object well are no background.

    Args:
        pos_ignore_thr: IoU of prior and object below which a pair is neither.
        neg_ignore_thr: IoU of predicted box and any object above which a prior is no background.
        match_times: Priors, and predictions, of each object.
        iou_calculator: Measures the overlaps.

    Raises:
        ValueError: There would be no pair.
    """

    def __init__(
        self,
        pos_ignore_thr: float,
        neg_ignore_thr: float,
        match_times: int = 4,
        iou_calculator: Annotated[BboxOverlaps2D | None, TASK_UTILS] = None,
    ) -> None:
        if match_times < 1:
            raise ValueError(f"match_times is a number of priors, at least 1, got {match_times}")
        self.pos_ignore_thr = pos_ignore_thr
        self.neg_ignore_thr = neg_ignore_thr
        self.match_times = match_times
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
            pred_instances: ``priors`` and the boxes that they predict, ``decoder_priors``; both ``Tensor[A,
                4]``, xyxy.
            gt_instances: ``bboxes`` and ``labels``.
            gt_instances_ignore: Not looked at.
            **kwargs: Have no effect.

        Returns:
            Also, in ``extra``, of each of P pairs: ``pos_idx`` (``BoolTensor[P]``, whether it counts),
            ``pos_predicted_boxes`` and ``target_boxes`` (``Tensor[P, 4]``).
        """
        truth = GroundTruth.pack([gt_instances])
        predicted = pred_instances.decoder_priors
        found = self.match_predictions(pred_instances.priors, predicted[None], truth)
        pairs = slice(None) if truth.counts[0] else slice(0)  # none of the box that stands for no box
        best = self.iou_calculator(truth.boxes[0], predicted.detach()).amax(0)
        return AssignResult(
            num_gts=truth.counts[0],
            gt_inds=found.matches[0],
            max_overlaps=best,
            labels=truth.labels_at(found.matches, -1)[0],
            extra={
                "pos_idx": found.held[0, pairs],
                "pos_predicted_boxes": predicted[found.places[0, pairs]],
                "target_boxes": truth.boxes[0][found.boxes[0, pairs]],
            },
        )

    @torch.no_grad()
    def match_predictions(
        self, priors: Tensor, predicted: Tensor, truth: GroundTruth, valid: Tensor | None = None
    ) -> UniformMatches:
        """Match a batch.

        Args:
            priors: ``Tensor[A, 4]``, xyxy, the same for every image.
            predicted: Boxes that they predict, ``Tensor[B, A, 4]``, xyxy.
            truth: Ground truth of the B images.
            valid: ``BoolTensor[B, A]``, which priors take part; None for all.
        """
        predicted = predicted.float()
        by_prediction = self._nearest(predicted, truth.boxes, valid)
        by_prior = self._nearest(priors.expand_as(predicted), truth.boxes, valid)
        # [B, times, 2, G]: nearness first, then predictions and priors, then boxes.
        places = torch.stack((by_prediction, by_prior), dim=-2).transpose(1, 3)
        boxes = torch.arange(truth.boxes.shape[1], device=priors.device).expand_as(places).flatten(1)
        counted = truth.mask[:, None, None].expand_as(places).flatten(1)
        places = places.flatten(1)
        overlaps = self.iou_calculator(
            priors[places],
            truth.boxes.gather(1, boxes[..., None].expand(-1, -1, 4)),
            is_aligned=True,
        )
        if valid is not None:
            counted = counted & valid.gather(1, places)
        held = counted & (overlaps >= self.pos_ignore_thr)
        best = self.iou_calculator(truth.boxes, predicted).amax(1)
        matches = torch.where(best > self.neg_ignore_thr, -1, 0)
        matches = _last_of(places, torch.where(held, boxes + 1, -1), counted, matches)
        if valid is not None:
            matches = matches.masked_fill(~valid, -1)
        return UniformMatches(matches, places, boxes, held)

    def _nearest(self, boxes: Tensor, gt_boxes: Tensor, valid: Tensor | None) -> Tensor:
        """Places ``LongTensor[B, G, times]`` of those of ``Tensor[B, A, 4]`` that are nearest to each box."""
        distances = torch.cdist(bbox_xyxy_to_cxcywh(gt_boxes), bbox_xyxy_to_cxcywh(boxes), p=1)
        if valid is not None:
            distances = distances.masked_fill(~valid[:, None], torch.inf)
        times = min(self.match_times, boxes.shape[1])
        return distances.topk(times, largest=False).indices


def _last_of(places: Tensor, values: Tensor, counted: Tensor, otherwise: Tensor) -> Tensor:
    """``otherwise`` (``[B, A]``), but at each of ``places`` (``[B, P]``) the last value that counts there.

    A plain assignment with one place twice is a matter of chance on a device.
    """
    order = torch.arange(1, places.shape[1] + 1, device=places.device) * counted
    last = torch.zeros_like(otherwise).scatter_reduce(1, places, order, "amax")
    return torch.where(last > 0, values.gather(1, (last - 1).clamp(min=0)), otherwise)
