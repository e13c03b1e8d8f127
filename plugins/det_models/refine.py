"""From one stage of a cascade to the next: regions where a box head's predictions move them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from det_models.metainfo import MetaInfo
from det_models.samplers import SamplingResult
from detcore.structures import InstanceData


@torch.no_grad()
def refined(
    head: Any,
    sampling_results: Sequence[SamplingResult],
    bbox_results: dict[str, Any],
    batch_img_metas: Sequence[MetaInfo],
) -> list[InstanceData]:
    """Each image's regions of the next stage; see :meth:`det_models.bbox_heads.BBoxHead.refine_bboxes`."""
    labels = bbox_results["bbox_targets"][0]
    rois, bbox_pred = bbox_results["rois"], bbox_results["bbox_pred"]
    cls_score = head.probabilities(bbox_results["cls_score"])
    if cls_score.numel():
        # A region without an object moves as its likeliest class would.
        labels = torch.where(labels == head.num_classes, cls_score[:, :-1].argmax(1), labels)
    counts = [result.num_pos + result.num_neg for result in sampling_results]
    moved = []
    for result, roi, label, pred, meta in zip(
        sampling_results,
        rois.split(counts),
        labels.split(counts),
        split_rows(bbox_pred, counts),
        batch_img_metas,
        strict=True,
    ):
        boxes = head.regress_by_class(roi[:, 1:], label, pred, meta)
        is_gt = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
        is_gt[: result.num_pos] = result.pos_is_gt
        moved.append(InstanceData(bboxes=boxes[~is_gt]))
    return moved


def split_rows(values: Any, counts: Sequence[int]) -> Sequence[Any]:
    """Each image's rows of ``Tensor[N, ...]``, or of a tuple of such; None for each where there are none."""
    if values is None:
        return [None] * len(counts)
    if isinstance(values, tuple):  # a box may be more than one encoded tensor
        return list(zip(*(each.split(counts) for each in values), strict=True))
    rows: Sequence[Tensor] = values.split(counts)
    return rows


def of_class(bbox_pred: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """``Tensor[N, 4]``: the encoded box of each region's own class, out of ``Tensor[N, K * 4]``."""
    rows = torch.arange(len(labels), device=labels.device)
    return bbox_pred.unflatten(1, (num_classes, -1))[rows, labels]
