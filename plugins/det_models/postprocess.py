"""From a dense head's maps to the few boxes that are worth returning."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from detcore.ops import batched_nms
from detcore.structures import InstanceData


def flatten_level(values: Tensor, size: int) -> Tensor:
    """A head's map with the priors' own numbers last.

    Args:
        values: ``Tensor[B, K * size, H, W]`` for K priors a cell.
        size: Numbers per prior (classes, box coordinates).

    Returns:
        ``Tensor[B, H * W * K, size]`` in the order of the prior generators; a view where the map is
        channels-last.
    """
    return values.permute(0, 2, 3, 1).reshape(len(values), -1, size)


def top_candidates(scores: Tensor, limit: int, least: float) -> tuple[Tensor, Tensor, Tensor]:
    """The best pairs of prior and class of one level, for the whole batch at once.

    The ``limit`` best pairs belong to at most ``limit`` priors, and to the ones with the best best class. So
    the priors are sorted out first, by a maximum over classes, and only their classes are looked at: nothing
    is ever sorted, activated or copied at full size. Shapes depend on shapes only, so that a GPU is not
    waited for; on the CPU, where looking costs nothing, priors without a score above ``least`` are left out
    right away.

    Args:
        scores: ``Tensor[B, K, C, H, W]``, scores or anything that grows with them (logits).
        limit: Number of pairs; 0 or less for all.
        least: Lower bound of what is worth returning. Not all that is returned is above it.

    Returns:
        Values ``Tensor[B, N]``, places of the priors ``LongTensor[B, N]`` in the flattened level, and classes
        ``LongTensor[B, N]``, in no particular order.
    """
    num_images, num_kinds, num_classes, _, width = scores.shape
    # In the map's own order: a maximum over a dimension that was permuted to the end takes 25 times as long.
    best = scores.amax(2).permute(0, 2, 3, 1).flatten(1)
    limit = limit if limit > 0 else best.shape[1] * num_classes
    rows = best.topk(_at_most(limit, best, least), sorted=False).indices
    cells = rows // num_kinds
    images = torch.arange(num_images, device=scores.device)[:, None]
    by_prior = scores.permute(0, 3, 4, 1, 2)
    picked = by_prior[images, cells // width, cells % width, rows % num_kinds].flatten(1)
    values, places = picked.topk(_at_most(limit, picked, least), sorted=False)
    return values, rows.gather(1, places // num_classes), places % num_classes


def _at_most(limit: int, values: Tensor, least: float) -> int:
    limit = min(limit, values.shape[1])
    if values.device.type == "cpu" and not torch.compiler.is_compiling() and limit:
        limit = min(limit, int((values > least).sum(1).max()))
    return limit


def logit_bound(score: float) -> float:
    """A little less than the logit whose sigmoid is ``score``, so that nothing is lost to rounding."""
    if score <= 0:
        return -math.inf
    return math.inf if score >= 1 else math.log(score / (1 - score)) - 0.05


def suppress(
    instances: InstanceData, nms: Mapping[str, Any] | None, min_bbox_size: float = -1, max_per_img: int = -1
) -> InstanceData:
    """Last steps for one image: drop tiny boxes, suppress doubles within each class, keep the best.

    Args:
        instances: ``bboxes`` (``Tensor[N, 4]``, xyxy), ``scores`` and ``labels`` (``Tensor[N]``).
        nms: Settings of :func:`detcore.ops.batched_nms`; None: doubles stay.
        min_bbox_size: Width and height that a box must exceed, in pixels; negative: all are kept.
        max_per_img: How many at most; 0 or less for all.

    Returns:
        What is left, best first where ``nms`` was given.
    """
    if min_bbox_size >= 0:
        sizes = instances.bboxes[:, 2:] - instances.bboxes[:, :2]
        instances = instances[(sizes > min_bbox_size).all(1)]
    if nms is not None and len(instances):
        boxes, scores, labels = instances.bboxes, instances.scores, instances.labels
        dets, keep = batched_nms(boxes, scores, labels, dict(nms))
        instances = instances[keep]
        instances.scores = dets[:, -1]  # soft NMS lowers them
    return instances[:max_per_img] if max_per_img > 0 else instances


def rescale_boxes(boxes: Tensor, scale_factor: Sequence[float]) -> Tensor:
    """Boxes ``Tensor[N, 4]`` of the network's input in pixels of the original image.

    Args:
        boxes: xyxy.
        scale_factor: (w, h) that the original was multiplied by.
    """
    factor_w, factor_h = (float(factor) for factor in scale_factor[:2])
    if factor_w == factor_h == 1:
        return boxes
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((x1 / factor_w, y1 / factor_h, x2 / factor_w, y2 / factor_h), dim=-1)
