"""What RTMDet's heads learn of classes and boxes: qualities as scores, and boxes that count by theirs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from det_models.dense_targets import regressed_rows, valid_priors
from det_models.dynamic_k_assign import match_predictions
from det_models.host import reduce_mean
from det_models.metainfo import MetaInfo
from det_models.postprocess import flatten_levels
from det_models.truth import GroundTruth
from detcore.structures import InstanceData


@dataclass(slots=True)
class MatchedCells:
    """Which of the A cells of B images answers for which object.

    Attributes:
        truth: Ground truth of the images.
        points: ``Tensor[A, 4]``, (x, y, stride, stride), pixels.
        cells: ``Tensor[A_i, 4]`` a level, xyxy, pixels.
        matches: ``LongTensor[B, A]``, number of the box plus one, 0 for none, -1 where it does not take part.
        overlaps: ``Tensor[B, A]``, IoU of the predicted box with it, 0 without one.
    """

    truth: GroundTruth
    points: Tensor
    cells: list[Tensor]
    matches: Tensor
    overlaps: Tensor


@torch.no_grad()
def match_cells(
    head: Any,
    cls_scores: Sequence[Tensor],
    bbox_preds: Sequence[Tensor],
    batch_gt_instances: Sequence[InstanceData],
    batch_img_metas: Sequence[MetaInfo],
    batch_gt_instances_ignore: Sequence[InstanceData] | None,
) -> MatchedCells:
    """Match a batch by what is predicted; arguments as of a head's ``loss_by_feat``."""
    truth = GroundTruth.pack(batch_gt_instances, batch_gt_instances_ignore, head.num_classes)
    sizes = [(score.shape[-2], score.shape[-1]) for score in cls_scores]
    levels = head.prior_generator.grid_priors(sizes, device=cls_scores[0].device, with_stride=True)
    cells = [torch.cat((each[:, :2], each[:, :2] + each[:, 2:]), dim=1) for each in levels]
    cfg, points = head._train_cfg(), torch.cat(levels)
    valid = valid_priors(head.prior_generator, cells, sizes, batch_img_metas, cfg.allowed_border)
    logits = flatten_levels(cls_scores, head.cls_out_channels).float()
    boxes = head.bbox_coder.decode(points, flatten_levels(bbox_preds, 4).float())
    found = match_predictions(cfg.assigner, points, boxes, logits, truth, valid)
    return MatchedCells(truth, points, cells, found.matches, found.overlaps)


def detection_losses(
    head: Any, cls_scores: Sequence[Tensor], bbox_preds: Sequence[Tensor], found: MatchedCells
) -> dict[str, list[Tensor]]:
    """``loss_cls`` and ``loss_bbox``, a scalar a level each, from a head's logits and distances."""
    total = reduce_mean(found.overlaps.sum()).clamp(min=1)
    wanted = (found.truth.labels_at(found.matches, head.num_classes), found.overlaps)
    lengths = [len(each) for each in found.cells]
    parts = [each.split(lengths, dim=1) for each in (found.matches, found.overlaps)]
    losses = [
        _box_loss_of(head, pred, cells, matches, overlaps, found.truth)
        for pred, cells, matches, overlaps in zip(bbox_preds, found.cells, *parts, strict=True)
    ]
    return {
        "loss_cls": head.class_losses(cls_scores, wanted, _weights(head, found.matches), total),
        "loss_bbox": [loss / total for loss in losses],
    }


def _weights(head: Any, matches: Tensor) -> Tensor:
    """How much each cell counts in the loss of the class, ``Tensor[B, A]``."""
    weights = (matches >= 0).float()
    pos_weight = head._train_cfg().pos_weight
    return torch.where(matches > 0, pos_weight, weights) if pos_weight > 0 else weights


def _box_loss_of(
    head: Any, bbox_pred: Tensor, cells: Tensor, matches: Tensor, overlaps: Tensor, truth: GroundTruth
) -> Tensor:
    """Sum of one level's box losses, each times its overlap, from distances ``Tensor[B, 4, H, W]``."""
    rows = regressed_rows(matches, cells, truth)
    # Rows without an object have the weight 0. But what is no number stays none times 0: they get a box.
    distances = torch.where(rows.weights > 0, rows.of(bbox_pred, 4), 1)
    boxes = head.bbox_coder.decode(rows.priors[:, :2], distances)
    weights = overlaps.flatten()[rows.index] * rows.weights[:, 0]
    loss: Tensor = head.loss_bbox(boxes, rows.gt_boxes, weight=weights, avg_factor=1.0)
    return loss
