"""Which anchors answer for which object by the statistics of the candidates near it: ATSS."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from det_models.assign import AssignResult, BaseAssigner
from det_models.overlaps import BboxOverlaps2D
from det_models.points import centers_of
from det_models.truth import GroundTruth
from detcore.registry import TASK_UTILS
from detcore.structures import InstanceData

_LEAST_DISTANCE = 0.01  # pixels between the centre of an anchor inside of a box and the box's sides


@dataclass(slots=True)
class Claims:
    """For each of G boxes of B images, C priors that may answer for it.

    Attributes:
        places: ``LongTensor[B, G, C]``, places of the priors among all of them.
        overlaps: ``Tensor[B, G, C]``, how well each of them fits.
        held: ``BoolTensor[B, G, C]``, which of them are to answer for it.
    """

    places: Tensor
    overlaps: Tensor
    held: Tensor


class ATSSAssigner(BaseAssigner):
    """Adaptive training sample selection: ATSS (Zhang et al. 2020), algorithm 1.

    For every object the ``topk`` priors of each level whose centres are nearest to its centre are candidates.
    Mean and standard deviation of their overlaps with it, added up, are the object's own threshold: those
    that reach it, and whose centre is inside of the object, answer for it. A prior that several objects lay
    claim to answers for the one that it overlaps most.

    Args:
        topk: Candidates of each level.
        alpha: None for overlaps of priors. Otherwise (DDOD, Chen et al. 2021) candidates are judged by what
            they predict, ``score^(1 - alpha) * overlap^alpha``.
        iou_calculator: Measures the overlaps.
        ignore_iof_thr: Part of a prior within an ignored region above which it is neither object nor
            background; negative: ignored regions are not looked at.

    Raises:
        ValueError: There would be no candidate.
    """

    def __init__(
        self,
        topk: int,
        alpha: float | None = None,
        iou_calculator: Annotated[BboxOverlaps2D | None, TASK_UTILS] = None,
        ignore_iof_thr: float = -1,
    ) -> None:
        if topk < 1:
            raise ValueError(f"topk is a number of candidates, at least 1, got {topk}")
        self.topk = topk
        self.alpha = alpha
        self.iou_calculator = iou_calculator or BboxOverlaps2D()
        self.ignore_iof_thr = ignore_iof_thr

    def assign(  # type: ignore[override]  # the arguments that users' heads call it with
        self,
        pred_instances: InstanceData,
        num_level_priors: Sequence[int],
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None = None,
        **kwargs: Any,
    ) -> AssignResult:
        """Match one image.

        Args:
            pred_instances: ``priors`` (``Tensor[A, 4]``, xyxy); with ``alpha`` the ``scores``
                (``Tensor[A, K]``, logits) and ``bboxes`` (``Tensor[A, 4]``, xyxy) that they predict.
            num_level_priors: How many of the priors are of each level, in order.
            gt_instances: ``bboxes`` and ``labels``.
            gt_instances_ignore: ``bboxes`` of the ignored regions.
        """
        ignored = None if gt_instances_ignore is None else [gt_instances_ignore]
        truth = GroundTruth.pack([gt_instances], ignored)
        predicted = None
        if self.alpha is not None:
            predicted = pred_instances.scores[None], pred_instances.bboxes[None]
        levels = pred_instances.priors.split(list(num_level_priors))
        matches, overlaps = self._match(levels, truth, None, predicted)
        return AssignResult(
            num_gts=truth.counts[0],
            gt_inds=matches[0],
            max_overlaps=overlaps[0],
            labels=truth.labels_at(matches, -1)[0],
        )

    def match(self, priors: Tensor, truth: GroundTruth, valid: Tensor | None = None) -> Tensor:
        """Match a batch whose priors are all of one level; see :meth:`BaseAssigner.match`."""
        return self.match_levels([priors], truth, valid)

    def match_levels(
        self,
        mlvl_priors: Sequence[Tensor],
        truth: GroundTruth,
        valid: Tensor | None = None,
        predicted: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Match a batch.

        Args:
            mlvl_priors: ``Tensor[A_i, 4]`` a level, xyxy.
            truth: Ground truth of the B images.
            valid: ``BoolTensor[B, A]``, which priors take part; None for all.
            predicted: With ``alpha`` the logits ``Tensor[B, A, K]`` and boxes ``Tensor[B, A, 4]`` (xyxy) of
                the priors.

        Returns:
            ``LongTensor[B, A]``: number of the matched box plus one, 0 for background, -1 for neither.
        """
        return self._match(mlvl_priors, truth, valid, predicted)[0]

    @torch.no_grad()
    def _match(
        self,
        mlvl_priors: Sequence[Tensor],
        truth: GroundTruth,
        valid: Tensor | None,
        predicted: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """Matches ``LongTensor[B, A]`` and the overlaps of the matched pairs ``Tensor[B, A]``."""
        if (predicted is None) != (self.alpha is None):
            raise ValueError(f"with alpha={self.alpha} ATSSAssigner {'needs' if self.alpha else 'takes no'} "
                             "predicted scores and boxes")  # fmt: skip
        priors = torch.cat(list(mlvl_priors))
        left_out = None if valid is None else ~valid
        if truth.ignored is not None and self.ignore_iof_thr > 0:
            everywhere = priors.expand(len(truth), -1, -1)
            inside = self.iou_calculator(everywhere, truth.ignored, mode="iof").amax(-1) > self.ignore_iof_thr
            left_out = inside if left_out is None else left_out | inside
        lengths = [len(level) for level in mlvl_priors]
        places, near = nearest_priors(truth.boxes, priors, lengths, self.topk, left_out)
        near &= truth.mask[..., None]
        candidates = priors[places]
        overlaps = self._overlaps(candidates, places, truth, predicted)
        held = near & (overlaps >= own_threshold(overlaps, near)[..., None])
        held &= centers_inside(candidates, truth.boxes)
        matches, best = strongest_claims(Claims(places, overlaps, held), len(priors))
        if left_out is not None:
            matches = matches.masked_fill(left_out & (matches == 0), -1)
        return matches, best

    def _overlaps(
        self,
        candidates: Tensor,
        places: Tensor,
        truth: GroundTruth,
        predicted: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """How well candidates ``Tensor[B, G, C, 4]`` fit the box that they may answer for, ``[B, G, C]``."""
        boxes = truth.boxes[:, :, None].expand_as(candidates)
        if predicted is None:
            return self.iou_calculator(candidates, boxes, is_aligned=True)
        assert self.alpha is not None
        logits, predicted_boxes = predicted
        images = torch.arange(len(places), device=places.device)[:, None, None]
        scores = logits[images, places, truth.labels[..., None]].float().sigmoid()
        overlaps = self.iou_calculator(predicted_boxes[images, places].float(), boxes, is_aligned=True)
        return scores ** (1 - self.alpha) * overlaps**self.alpha


def nearest_priors(
    boxes: Tensor, priors: Tensor, lengths: Sequence[int], topk: int, left_out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The priors of each level whose centres are nearest to the centres of boxes.

    Args:
        boxes: ``Tensor[B, G, 4]``, xyxy.
        priors: ``Tensor[A, 4]``, xyxy, level by level.
        lengths: Priors of each level.
        topk: How many of each level; all of a level that has fewer.
        left_out: ``BoolTensor[B, A]``, priors that are not to be chosen; None for none.

    Returns:
        Their places among all priors, ``LongTensor[B, G, C]``, and which of those count, ``BoolTensor[B, G,
        C]``: a level of which most is left out may have fewer than its share.
    """
    points, centers = centers_of(priors), centers_of(boxes)
    places, near, start = [], [], 0
    for length in lengths:
        level = slice(start, start + length)
        dx = centers[..., :1] - points[level, 0]
        dy = centers[..., 1:] - points[level, 1]
        distances = dx.square_().add_(dy.square_())
        if left_out is not None:
            distances = distances.masked_fill(left_out[:, None, level], torch.inf)
        found, chosen = distances.topk(min(topk, length), largest=False)
        places.append(chosen + start)
        near.append(found < torch.inf)
        start += length
    return torch.cat(places, dim=-1), torch.cat(near, dim=-1)


def own_threshold(overlaps: Tensor, near: Tensor) -> Tensor:
    """Mean plus standard deviation ``Tensor[...]`` of those of ``Tensor[..., C]`` that count (``near``)."""
    count = near.sum(-1).clamp(min=1)
    counted = torch.where(near, overlaps, 0)
    mean = counted.sum(-1) / count
    squares = torch.where(near, (overlaps - mean[..., None]).square(), 0)
    return mean + (squares.sum(-1) / (count - 1).clamp(min=1)).sqrt()


def centers_inside(priors: Tensor, boxes: Tensor) -> Tensor:
    """Whether priors ``Tensor[B, G, C, D]`` (boxes or points) have their centre in ``Tensor[B, G, 4]``."""
    points = centers_of(priors)
    boxes = boxes[:, :, None]
    sides = torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), dim=-1)
    return sides.amin(-1) > _LEAST_DISTANCE


def strongest_claims(claims: Claims, num_priors: int) -> tuple[Tensor, Tensor]:
    """Give each prior to the box that it fits best among those that lay claim to it.

    Returns:
        ``LongTensor[B, A]``, number of the box plus one, 0 for none; and ``Tensor[B, A]``, how well it fits,
        0 for none.
    """
    num_images, num_boxes, _ = claims.places.shape
    places = claims.places.flatten(1)
    strength = torch.where(claims.held, claims.overlaps, -1).flatten(1)
    best = strength.new_full((num_images, num_priors), -1).scatter_reduce(1, places, strength, "amax")
    numbers = torch.arange(num_boxes, device=places.device)[:, None].expand_as(claims.places).flatten(1)
    wins = claims.held.flatten(1) & (strength == best.gather(1, places))
    numbers = torch.where(wins, numbers, num_boxes)
    first = numbers.new_full((num_images, num_priors), num_boxes).scatter_reduce(1, places, numbers, "amin")
    return torch.where(first < num_boxes, first + 1, 0), best.clamp(min=0)
