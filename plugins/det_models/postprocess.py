"""From a dense head's maps to the few boxes that are worth returning."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from det_models.host import host_tensor
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


def flatten_levels(levels: Sequence[Tensor], size: int) -> Tensor:
    """Maps of all levels as ``Tensor[B, A, size]`` for the A priors of all; see :func:`flatten_level`."""
    return torch.cat([flatten_level(level, size) for level in levels], dim=1)


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
        ``LongTensor[B, N]``, in the order of priors and classes: which of two equal scores comes first in a
        suppression is then no matter of chance.
    """
    num_images, num_kinds, num_classes, _, width = scores.shape
    # In the map's own order: a maximum over a dimension that was permuted to the end takes 25 times as long.
    best = scores.amax(2).permute(0, 2, 3, 1).flatten(1)
    limit = limit if limit > 0 else best.shape[1] * num_classes
    rows = _best_places(best, limit, least)
    cells = rows // num_kinds
    images = torch.arange(num_images, device=scores.device)[:, None]
    by_prior = scores.permute(0, 3, 4, 1, 2)
    picked = by_prior[images, cells // width, cells % width, rows % num_kinds].flatten(1)
    places = _best_places(picked, limit, least)
    pairs, order = (rows.gather(1, places // num_classes) * num_classes + places % num_classes).sort(1)
    return picked.gather(1, places.gather(1, order)), pairs // num_classes, pairs % num_classes


def _best_places(values: Tensor, limit: int, least: float) -> Tensor:
    """Where the ``limit`` best of each row of ``Tensor[B, N]`` are; see :func:`top_candidates`."""
    limit = min(limit, values.shape[1])
    if values.device.type == "cpu" and not torch.compiler.is_compiling() and limit:
        above = values > least
        if len(values) == 1:  # finding those few takes a third of the time that ranking all would
            found = above[0].nonzero()[:, 0]
            if len(found) > limit:
                found = found[values[0, found].topk(limit, sorted=False).indices]
            return found[None]
        limit = min(limit, int(above.sum(1).max()))
    return values.topk(limit, sorted=False).indices


def logit_bound(score: float) -> float:
    """A little less than the logit whose sigmoid is ``score``, so that nothing is lost to rounding."""
    if score <= 0:
        return -math.inf
    return math.inf if score >= 1 else math.log(score / (1 - score)) - 0.05


@dataclass(slots=True)
class Candidates:
    """N predictions of each of B images, in no particular order.

    Attributes:
        scores: ``Tensor[B, N]``.
        labels: ``LongTensor[B, N]``.
        priors: ``Tensor[B, N, D]``, the anchors or points that predicted them.
        bbox_preds: ``Tensor[B, N, E]``, encoded boxes.
        levels: ``LongTensor[B, N]``, the level that each came from.
        factors: ``Tensor[B, N]``, by which scores are to be multiplied, or None.
    """

    scores: Tensor
    labels: Tensor
    priors: Tensor
    bbox_preds: Tensor
    levels: Tensor
    factors: Tensor | None = None


def best_of_levels(
    cls_scores: Sequence[Tensor],
    bbox_preds: Sequence[Tensor],
    score_factors: Sequence[Tensor] | None,
    mlvl_priors: Sequence[Tensor],
    *,
    num_scores: int,
    use_sigmoid: bool,
    limit: int,
    score_thr: float,
) -> Candidates:
    """The best of every level, all levels together; only they are activated, in float32.

    Args:
        cls_scores: Logits ``Tensor[B, K * num_scores, H, W]`` a level.
        bbox_preds: ``Tensor[B, K * E, H, W]`` a level.
        score_factors: Logits ``Tensor[B, K, H, W]`` a level, or None.
        mlvl_priors: ``Tensor[H * W * K, D]`` a level.
        num_scores: Scores per prior.
        use_sigmoid: Whether they are independent, or a softmax whose last entry is background.
        limit: Predictions of each level; 0 or less for all.
        score_thr: What is not above it may be left out.
    """
    least = logit_bound(score_thr) if use_sigmoid else score_thr
    levels = []
    for level, priors in enumerate(mlvl_priors):
        scores = cls_scores[level].unflatten(1, (-1, num_scores))
        if use_sigmoid and num_scores == 1:
            values, places = _ranked(cls_scores[level].float().sigmoid(), limit)
            labels = torch.zeros_like(places)
        elif use_sigmoid:
            values, places, labels = top_candidates(scores, limit, least)
            values = values.float().sigmoid()
        else:
            values, places, labels = top_candidates(scores.float().softmax(2)[:, :, :-1], limit, least)
        found = [
            values,
            labels,
            priors[places],
            _rows_of(bbox_preds[level], places, len(priors)),
            torch.full_like(labels, level),
        ]
        if score_factors is not None:
            found.append(_rows_of(score_factors[level], places, len(priors))[..., 0].sigmoid())
        levels.append(found)
    return Candidates(*(torch.cat(parts, dim=1) for parts in zip(*levels, strict=True)))


def _ranked(scores: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """The best scores ``Tensor[B, N]`` of a map ``Tensor[B, K, H, W]`` of one class, and their places.

    Sure proposals have equal scores by the dozen, since a sigmoid near 1 has few values left. Which of them
    suppresses the other is decided by this order: that of a sort of all scores, as in published results.
    """
    flat = flatten_level(scores, 1)[..., 0]
    if not 0 < limit < flat.shape[1]:
        return flat, torch.arange(flat.shape[1], device=flat.device).expand_as(flat)
    ranked, places = flat.sort(dim=1, descending=True)
    return ranked[:, :limit], places[:, :limit]


def _rows_of(values: Tensor, places: Tensor, num_priors: int) -> Tensor:
    """``Tensor[B, N, E]``: what a map ``Tensor[B, K * E, H, W]`` holds for priors ``LongTensor[B, N]``."""
    rows = flatten_level(values, values[0].numel() // num_priors)
    return rows.gather(1, places[..., None].expand(-1, -1, rows.shape[-1])).float()


def suppress(
    instances: InstanceData,
    nms: Mapping[str, Any] | None,
    max_per_img: int = -1,
    groups: Tensor | None = None,
) -> InstanceData:
    """Last steps for one image: suppress doubles within each class, keep the best.

    Args:
        instances: ``bboxes`` (``Tensor[N, 4]``, xyxy), ``scores`` and ``labels`` (``Tensor[N]``).
        nms: Settings of :func:`detcore.ops.batched_nms`; None: all are kept, in the order that they have.
        max_per_img: How many at most; 0 or less for all.
        groups: ``LongTensor[N]``, within which doubles are suppressed in place of the classes.

    Returns:
        What is left, best first.
    """
    if nms is None or not len(instances):
        return instances
    groups = instances.labels if groups is None else groups
    dets, keep = batched_nms(instances.bboxes, instances.scores, groups, dict(nms), max_num=max_per_img)
    instances = instances[keep]
    instances.scores = dets[:, -1]  # soft NMS lowers them
    return instances


def rescale_boxes(boxes: Tensor, scale_factors: Sequence[Sequence[float]]) -> Tensor:
    """Boxes ``Tensor[B, N, 4]`` of the network's input in pixels of the original images.

    Args:
        boxes: xyxy.
        scale_factors: (w, h) that each original was multiplied by.
    """
    factors = [(*factor[:2], *factor[:2]) for factor in scale_factors]
    if all(factor == (1, 1, 1, 1) for factor in factors):
        return boxes
    return boxes / host_tensor(factors, boxes)[:, None]
