"""What assigners share that choose by what is predicted, and how many by how well: dynamic k."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from det_models.assign import AssignResult, BaseAssigner
from det_models.truth import GroundTruth
from detcore.structures import InstanceData

_ENTRIES = {"cpu": 1 << 21}  # images are matched together while their pairs are at most so many
_DEVICE_ENTRIES = 1 << 24  # about a gigabyte


@dataclass(slots=True)
class PredictedMatches:
    """Which of A predictions of B images answers for which box.

    Attributes:
        matches: ``LongTensor[B, A]``, number of the box plus one, 0 for none, -1 where it does not take part.
        overlaps: ``Tensor[B, A]``, IoU of the predicted box with it, 0 without one.
    """

    matches: Tensor
    overlaps: Tensor


@dataclass(slots=True)
class Pairs:
    """G boxes of each of b images with A predictions.

    Attributes:
        costs: ``Tensor[b, G, A]``, what it costs that the prediction answers for the box.
        overlaps: ``Tensor[b, G, A]``, IoU of the predicted box with the box.
        open: ``BoolTensor[b, G, A]``, which pairs there are to choose from.
    """

    costs: Tensor
    overlaps: Tensor
    open: Tensor


class DynamicKAssigner(BaseAssigner):
    """Base of assigners that weigh every pair of box and prediction.

    A box is answered for by the k predictions that cost it least, where k is the sum of its ``topk`` greatest
    overlaps with predictions (at least one): YOLOX (Ge et al. 2021), "dynamic k estimation". A prediction
    that several boxes want goes to the one that it costs least.

    Derived classes define :meth:`pairs`.

    Attributes:
        topk: Overlaps that k is the sum of, and the greatest k.
    """

    topk: int

    @abstractmethod
    def pairs(
        self, priors: Tensor, boxes: Tensor, scores: Tensor, gt_boxes: Tensor, labels: Tensor
    ) -> Pairs:
        """Weigh the pairs of some images.

        Args:
            priors: ``Tensor[A, 4]``, (x, y, stride, stride), pixels.
            boxes: ``Tensor[b, A, 4]``, predicted, xyxy, pixels.
            scores: ``Tensor[b, A, C]``, predicted; what they are is the assigner's to say.
            gt_boxes: ``Tensor[b, G, 4]``, xyxy, pixels; some may be padding, of which no notice is taken.
            labels: ``LongTensor[b, G]``.

        Returns:
            The pairs; ``open`` tells which prior is near enough to each box by itself.
        """

    def assign(
        self,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None = None,
        **kwargs: Any,
    ) -> AssignResult:
        """Match one image.

        Args:
            pred_instances: ``priors`` (``Tensor[A, 4]``, x, y, stride, stride), ``bboxes`` (``Tensor[A, 4]``,
                xyxy) and ``scores`` (``Tensor[A, C]``).
            gt_instances: ``bboxes`` and ``labels``.
            gt_instances_ignore: Not looked at.
            **kwargs: Have no effect.

        Raises:
            ValueError: There are no predictions.
        """
        missing = [name for name in ("bboxes", "scores") if name not in pred_instances]
        if missing:
            raise ValueError(
                f"{type(self).__name__} chooses by predictions: pred_instances lacks {', '.join(missing)}"
            )
        truth = GroundTruth.pack([gt_instances])
        found = self.match_predictions(
            pred_instances.priors, pred_instances.bboxes[None], pred_instances.scores[None], truth
        )
        return AssignResult(
            num_gts=truth.counts[0],
            gt_inds=found.matches[0],
            max_overlaps=found.overlaps[0],
            labels=truth.labels_at(found.matches, -1)[0],
        )

    @torch.no_grad()
    def match_predictions(
        self, priors: Tensor, boxes: Tensor, scores: Tensor, truth: GroundTruth, valid: Tensor | None = None
    ) -> PredictedMatches:
        """Match a batch.

        Args:
            priors: ``Tensor[A, 4]``, (x, y, stride, stride), pixels; the same for every image.
            boxes: ``Tensor[B, A, 4]``, predicted, xyxy, pixels.
            scores: ``Tensor[B, A, C]``, predicted; see :meth:`pairs`.
            truth: Ground truth of the B images.
            valid: ``BoolTensor[B, A]``, which predictions take part; None for all.
        """
        entries = _ENTRIES.get(boxes.device.type, _DEVICE_ENTRIES)
        step = max(1, entries // max(1, truth.boxes.shape[1] * len(priors)))
        parts = []
        for start in range(0, len(truth), step):
            images = slice(start, start + step)
            given = boxes[images].float(), scores[images].float()
            parts.append(self._match_images(priors, *given, truth, images, valid))
        return PredictedMatches(*(torch.cat(each) for each in zip(*parts, strict=True)))

    def _match_images(
        self,
        priors: Tensor,
        boxes: Tensor,
        scores: Tensor,
        truth: GroundTruth,
        images: slice,
        valid: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Matches and overlaps of some of the images, which the predictions are of already."""
        num_boxes = max(1, *truth.counts[images])
        mask = truth.mask[images, :num_boxes, None]
        pairs = self.pairs(
            priors, boxes, scores, truth.boxes[images, :num_boxes], truth.labels[images, :num_boxes]
        )
        # A prior that is near enough to one box may answer for any box of its image.
        near = (pairs.open & mask).any(1, keepdim=True)
        if valid is not None:
            near &= valid[images, None]
        pairs.open = near & mask
        matches, overlaps = cheapest_pairs(pairs, self.topk)
        if valid is not None:
            matches = matches.masked_fill(~valid[images], -1)
        return matches, overlaps


def cheapest_pairs(pairs: Pairs, topk: int) -> tuple[Tensor, Tensor]:
    """Give every box as many of the predictions that cost it least as its overlaps add up to.

    Args:
        pairs: What there is to choose from.
        topk: Overlaps that are added up.

    Returns:
        ``LongTensor[b, A]``, number of the box plus one, 0 for none; and ``Tensor[b, A]``, their overlap.
    """
    topk = min(topk, pairs.costs.shape[-1])
    greatest = torch.finfo(pairs.costs.dtype).max
    costs = torch.where(pairs.open, pairs.costs.clamp(max=greatest), torch.inf)
    overlaps = torch.where(pairs.open, pairs.overlaps, 0)
    how_many = overlaps.topk(topk).values.sum(-1, keepdim=True).int().clamp(min=1)
    least, places = costs.topk(topk, largest=False)
    held = (torch.arange(topk, device=costs.device) < how_many) & (least < torch.inf)
    claims = torch.zeros_like(pairs.open).scatter(-1, places, held)
    count = claims.sum(1)
    number = torch.where(count > 1, costs.argmin(1), claims.int().argmax(1))
    overlap = overlaps.gather(1, number[:, None])[:, 0]
    return torch.where(count > 0, number + 1, 0), torch.where(count > 0, overlap, 0)


def match_predictions(
    assigner: Any,
    priors: Tensor,
    boxes: Tensor,
    scores: Tensor,
    truth: GroundTruth,
    valid: Tensor | None = None,
) -> PredictedMatches:
    """:meth:`DynamicKAssigner.match_predictions`, image by image for an assigner that has only ``assign``."""
    if hasattr(assigner, "match_predictions"):
        found: PredictedMatches = assigner.match_predictions(priors, boxes, scores, truth, valid)
        return found
    matches = torch.full(boxes.shape[:2], -1, dtype=torch.long, device=boxes.device)
    overlaps = boxes.new_zeros(boxes.shape[:2], dtype=torch.float32)
    instances: Sequence[InstanceData] = truth.instances
    for number, gt_instances in enumerate(instances):
        chosen: Tensor | slice = slice(None) if valid is None else valid[number]
        predicted = InstanceData(
            priors=priors[chosen], bboxes=boxes[number, chosen], scores=scores[number, chosen]
        )
        ignored = None if truth.ignored_instances is None else truth.ignored_instances[number]
        result = assigner.assign(predicted, gt_instances, ignored)
        matches[number, chosen] = result.gt_inds
        overlaps[number, chosen] = torch.where(result.gt_inds > 0, result.max_overlaps.float(), 0)
    return PredictedMatches(matches, overlaps)


def of_labels(values: Tensor, labels: Tensor) -> Tensor:
    """``Tensor[b, G, A]``: of ``values`` (``Tensor[b, A, C]``) those of each box's class, ``[b, G]``."""
    return values.transpose(1, 2).gather(1, labels[..., None].expand(-1, -1, values.shape[1]))


def points_inside(priors: Tensor, boxes: Tensor) -> Tensor:
    """Whether the points of ``Tensor[A, 4]`` are inside of boxes ``Tensor[b, G, 4]``, xyxy: ``[b, G, A]``."""
    left, top, right, bottom = boxes[..., None].unbind(-2)
    x, y = priors[:, 0], priors[:, 1]
    return (x > left) & (x < right) & (y > top) & (y < bottom)
