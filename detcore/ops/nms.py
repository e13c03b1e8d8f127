"""Non-maximum suppression: of one set of boxes, by class, and with a score threshold in front."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor

from detcore.ops.soft_nms import soft_nms


class NmsCfg(TypedDict, total=False):
    """Settings of :func:`batched_nms`, as configs write them."""

    type: Literal["nms", "soft_nms"]
    iou_threshold: float
    offset: int
    score_threshold: float
    sigma: float
    min_score: float
    method: Literal["linear", "gaussian", "naive"]
    class_agnostic: bool
    split_thr: int
    max_num: int


# One call over all classes costs the square of their boxes on a CPU. Measured with 5 to 80 classes, one call
# for each class is the faster way from about here on (5,000 boxes, 80 classes: 3 ms in place of 70).
_ONE_CALL_ON_CPU = 1000
# How many of the best boxes are tried before all are (see _best_kept): so many times as are asked for at
# first, and this share of all at most. A trained RTMDet that gave 1,700 boxes needed 670 of them for the 100
# best, and 1,080 for 300.
_TRIED_FIRST = 4
_TRIED_MOST = 0.8
_OWN_KEYS = ("type", "class_agnostic", "split_thr", "max_num")
_ARGUMENTS = {
    "nms": ("iou_threshold", "offset", "score_threshold"),
    "soft_nms": ("iou_threshold", "sigma", "min_score", "method", "offset"),
}


def nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    offset: int = 0,
    score_threshold: float = 0.0,
    max_num: int = -1,
) -> tuple[Tensor, Tensor]:
    """Greedy suppression of boxes that overlap a better one by more than a threshold.

    Args:
        boxes: ``Tensor[N, 4]``, xyxy, pixels.
        scores: ``Tensor[N]``.
        iou_threshold: Boxes with a larger IoU are suppressed.
        offset: 1 for boxes whose width is ``x2 - x1 + 1`` (data of before 2020), else 0.
        score_threshold: Only boxes above it take part, where it is above 0.
        max_num: Number of boxes to keep at most; no limit where it is not positive.

    Returns:
        ``(dets, keep)``: ``Tensor[K, 5]`` (x1, y1, x2, y2, score) by falling score, and their positions
        ``Tensor[K]`` in the input.

    Raises:
        ValueError: The shapes do not fit, or ``offset`` is neither 0 nor 1.
    """
    _check(boxes, scores)
    keep = _best_kept(boxes, scores, None, max_num, iou_threshold, offset, score_threshold)
    return torch.cat([boxes[keep], scores[keep, None]], 1), keep


def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor,
    nms_cfg: Mapping[str, Any] | None,
    class_agnostic: bool = False,
    max_num: int = -1,
) -> tuple[Tensor, Tensor]:
    """Suppression within each class (or level): boxes of different classes do not touch each other.

    Args:
        boxes: ``Tensor[N, 4]``, xyxy, pixels.
        scores: ``Tensor[N]``.
        idxs: ``Tensor[N]``, integer: the class of each box.
        nms_cfg: ``type`` (``'nms'``, the default, or ``'soft_nms'``) and its arguments (``iou_threshold``,
            ...), ``max_num`` (boxes to keep over all classes), ``class_agnostic``, and ``split_thr``: from
            this number of boxes on, classes are treated one by one (10000). None suppresses nothing and
            only sorts.
        class_agnostic: Suppress across classes; ``nms_cfg`` has the last word.
        max_num: Number of boxes to keep over all classes at most, as that of ``nms_cfg``; of two limits the
            smaller one counts. No limit where it is not positive.

    Returns:
        ``(dets, keep)``: ``Tensor[K, 5]`` (x1, y1, x2, y2, score) by falling score (after decay, for
        ``'soft_nms'``), and their positions ``Tensor[K]`` in the input. Of equal scores the first in the
        input comes first, but for ``'soft_nms'``.

    Raises:
        ValueError: The shapes do not fit, or ``nms_cfg`` holds an unknown type or argument.
    """
    _check(boxes, scores)
    if len(idxs) != len(boxes):
        raise ValueError(f"{len(boxes)} boxes need as many idxs, got {len(idxs)}")
    if nms_cfg is None:
        keep = scores.argsort(descending=True, stable=True)
        keep = keep[:max_num] if max_num > 0 else keep
        return torch.cat([boxes[keep], scores[keep, None]], 1), keep
    kind, arguments = _read(nms_cfg)
    max_num = min((limit for limit in (max_num, nms_cfg.get("max_num", -1)) if limit > 0), default=-1)
    agnostic = nms_cfg.get("class_agnostic", class_agnostic)
    if kind == "soft_nms":
        return _soft_by_class(boxes, scores, torch.zeros_like(idxs) if agnostic else idxs, arguments, max_num)
    split_thr = nms_cfg.get("split_thr", 10000)
    keep = _best_kept(boxes, scores, None if agnostic else idxs, max_num, **arguments, split_thr=split_thr)
    return torch.cat([boxes[keep], scores[keep, None]], 1), keep


def multiclass_nms(
    multi_bboxes: Tensor,
    multi_scores: Tensor,
    score_thr: float,
    nms_cfg: Mapping[str, Any] | None,
    max_num: int = -1,
    score_factors: Tensor | None = None,
    return_inds: bool = False,
) -> tuple[Tensor, ...]:
    """Threshold, then suppression by class, for scores of all classes at once.

    Args:
        multi_bboxes: ``Tensor[N, 4]``, or ``Tensor[N, C * 4]`` with boxes of their own for each class.
        multi_scores: ``Tensor[N, C + 1]``; the last column is the background and is left out.
        score_thr: Only scores above it take part.
        nms_cfg: As for :func:`batched_nms`.
        max_num: Number of boxes to keep at most; no limit where it is not positive.
        score_factors: ``Tensor[N]``, multiplied onto the scores that passed the threshold.
        return_inds: Whether to return the positions too.

    Returns:
        ``(dets, labels)``: ``Tensor[K, 5]`` by falling score and ``Tensor[K]``; with ``return_inds`` also
        positions ``Tensor[K]`` in the flattened ``N * C``.

    Raises:
        ValueError: The shapes do not fit.
    """
    num_classes = multi_scores.size(1) - 1
    if multi_bboxes.size(1) not in (4, 4 * num_classes):
        raise ValueError(
            f"multi_bboxes must be [N, 4] or [N, {4 * num_classes}] for {num_classes} classes, "
            f"got shape {tuple(multi_bboxes.shape)}"
        )
    scores = multi_scores[:, :-1]
    inds = (scores > score_thr).flatten().nonzero().squeeze(1)
    rows, labels = inds // max(num_classes, 1), inds % max(num_classes, 1)
    per_class = multi_bboxes.size(1) > 4
    boxes = multi_bboxes.view(-1, num_classes, 4)[rows, labels] if per_class else multi_bboxes[rows]
    chosen = scores[rows, labels]
    if score_factors is not None:
        chosen = chosen * score_factors[rows]
    dets, keep = batched_nms(boxes, chosen, labels, nms_cfg, max_num=max_num)
    return (dets, labels[keep], inds[keep]) if return_inds else (dets, labels[keep])


def _check(boxes: Tensor, scores: Tensor) -> None:
    if boxes.dim() != 2 or boxes.size(1) != 4:
        raise ValueError(f"boxes must be [N, 4], got shape {tuple(boxes.shape)}")
    if scores.dim() != 1 or len(scores) != len(boxes):
        raise ValueError(f"{len(boxes)} boxes need scores [{len(boxes)}], got shape {tuple(scores.shape)}")


def _read(nms_cfg: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Kind of suppression and its own arguments."""
    kind = nms_cfg.get("type", "nms")
    if kind not in _ARGUMENTS:
        raise ValueError(f"nms type must be one of {sorted(_ARGUMENTS)}, got {kind!r}")
    arguments = {key: value for key, value in nms_cfg.items() if key not in _OWN_KEYS}
    unknown = sorted(set(arguments) - set(_ARGUMENTS[kind]))
    if unknown:
        known = sorted((*_ARGUMENTS[kind], *_OWN_KEYS))
        raise ValueError(f"{kind} has no argument {unknown}; there are {known}")
    if kind == "nms" and "iou_threshold" not in arguments:
        raise ValueError(f"nms needs iou_threshold, got {dict(nms_cfg)}")
    return kind, arguments


def _best_kept(
    boxes: Tensor, scores: Tensor, idxs: Tensor | None, limit: int, /, *arguments: Any, **settings: Any
) -> Tensor:
    """Positions of the ``limit`` best boxes that stay (of all, where it is not positive), best first.

    Whether a box stays is decided by better ones alone. So the best few boxes are looked at first, then twice
    as many: once enough of them stay, the others never matter. A detector asks for 100 or 300 of thousands
    that a low threshold lets through, and until so many stay, each box is compared with few others.
    """
    few, most = _TRIED_FIRST * limit, _TRIED_MOST * len(boxes)
    # On a GPU one call over all takes less time than to wait for the number of those that stay.
    if 0 < few < most and boxes.device.type == "cpu" and not torch.compiler.is_compiling():
        apart = boxes if idxs is None else _apart(boxes, idxs)
        ranked = scores.argsort(descending=True, stable=True)
        while few < most:
            first = ranked[:few].sort().values  # in the input's order, which decides between equal scores
            some = first[_kept(apart[first], scores[first], None, *arguments, **settings)][:limit]
            if len(some) == limit:
                return some
            few *= 2
    keep = _kept(boxes, scores, idxs, *arguments, **settings)
    return keep[:limit] if limit > 0 else keep


def _kept(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor | None,
    iou_threshold: float,
    offset: int = 0,
    score_threshold: float = 0.0,
    split_thr: int = 10000,
) -> Tensor:
    """Positions of the boxes that stay, best first; across classes where ``idxs`` is None."""
    if offset not in (0, 1):
        raise ValueError(f"offset must be 0 or 1, got {offset}")
    if score_threshold > 0:
        chosen = (scores > score_threshold).nonzero().squeeze(1)
        few = boxes[chosen], scores[chosen], _at(idxs, chosen)
        return chosen[_kept(*few, iou_threshold, offset, 0.0, split_thr)]
    if offset:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + 1], 1)
    if idxs is None:
        return _suppress(boxes, scores, iou_threshold)
    if len(boxes) >= split_thr or (boxes.device.type == "cpu" and len(boxes) > _ONE_CALL_ON_CPU):
        kept = [m[_suppress(boxes[m], scores[m], iou_threshold)] for m in _members(idxs)]
        keep = torch.cat(kept).sort().values if kept else idxs.new_zeros(0, dtype=torch.long)
        return keep[scores[keep].argsort(descending=True, stable=True)]
    return _suppress(_apart(boxes, idxs), scores, iou_threshold)


def _at(idxs: Tensor | None, positions: Tensor) -> Tensor | None:
    return None if idxs is None else idxs[positions]


def _suppress(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    if boxes.dtype not in (torch.float32, torch.float64):
        boxes = boxes.float()
    # Here, not above: it takes as long to import as torch, and a check of a config needs none of it.
    import torchvision

    return torchvision.ops.nms(boxes, scores.to(boxes.dtype), iou_threshold)


def _apart(boxes: Tensor, idxs: Tensor) -> Tensor:
    """Boxes moved so far apart by class that those of different classes cannot overlap.

    In float64: float32 has no bits left for parts of a pixel once 80 images of 1,333 pixels stand in a row.
    """
    if len(boxes) == 0:
        return boxes.double()
    exact = boxes.double()
    finite = torch.nan_to_num(exact, 0.0, 0.0, 0.0)  # one broken box must not tear all classes together
    extent = finite.max() - finite.min() + 1
    return exact + (idxs.to(exact) * extent)[:, None]


def _members(idxs: Tensor) -> tuple[Tensor, ...]:
    """Positions of each class's boxes."""
    ordered, positions = idxs.sort(stable=True)
    _, counts = torch.unique_consecutive(ordered, return_counts=True)
    return positions.split(counts.tolist()) if len(idxs) else ()


def _soft_by_class(
    boxes: Tensor, scores: Tensor, idxs: Tensor, arguments: Mapping[str, Any], max_num: int
) -> tuple[Tensor, Tensor]:
    dets, kept = [boxes.new_zeros(0, 5)], [idxs.new_zeros(0, dtype=torch.long)]
    for members in _members(idxs):
        found, keep = soft_nms(boxes[members], scores[members], **arguments)
        dets.append(found)
        kept.append(members[keep])
    every, keep = torch.cat(dets), torch.cat(kept)
    order = every[:, 4].argsort(descending=True, stable=True)
    if max_num > 0:
        order = order[:max_num]
    return every[order], keep[order]
