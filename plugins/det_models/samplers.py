"""Which of the matched anchors or proposals a loss gets to see."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from det_models.assign import AssignResult
from detcore.errors import ConfigError
from detcore.structures import InstanceData


@dataclass(slots=True)
class SamplingResult:
    """Positives and negatives of one image.

    Attributes:
        pos_inds: ``LongTensor[P]``, places of the positives among the priors that were sampled from.
        neg_inds: ``LongTensor[Q]``, places of the negatives.
        pos_priors: ``Tensor[P, 4]``, xyxy.
        neg_priors: ``Tensor[Q, 4]``, xyxy.
        gt_bboxes: ``Tensor[G, 4]``, xyxy.
        pos_assigned_gt_inds: ``LongTensor[P]``, box that each positive answers for.
        pos_gt_labels: ``LongTensor[P]``, its class.
        pos_is_gt: ``BoolTensor[P]``, whether the positive is a ground truth box that was added to the priors.
        avg_factor: What a loss over this image is divided by, at least 1.
    """

    pos_inds: Tensor
    neg_inds: Tensor
    pos_priors: Tensor
    neg_priors: Tensor
    gt_bboxes: Tensor
    pos_assigned_gt_inds: Tensor
    pos_gt_labels: Tensor
    pos_is_gt: Tensor
    avg_factor: int

    @property
    def priors(self) -> Tensor:
        """The sampled ones, ``Tensor[P + Q, 4]``, xyxy, positives first."""
        return torch.cat([self.pos_priors, self.neg_priors])

    @property
    def pos_gt_bboxes(self) -> Tensor:
        """Boxes that the positives answer for, ``Tensor[P, 4]``, xyxy."""
        return self.gt_bboxes.view(-1, 4)[self.pos_assigned_gt_inds]

    @property
    def num_pos(self) -> int:
        """Number of positives."""
        return len(self.pos_inds)

    @property
    def num_neg(self) -> int:
        """Number of negatives."""
        return len(self.neg_inds)


class BaseSampler(ABC):
    """Chooses among the matched priors.

    A sampler defines :meth:`select` for a batch of matches (dense heads) and gets :meth:`sample` for the
    proposals of one image from it.

    Attributes:
        avg_factor_with_neg: Whether losses are averaged over positives and negatives, or over positives
            alone.
    """

    avg_factor_with_neg = False

    @abstractmethod
    def select(self, matches: Tensor) -> Tensor:
        """Take the priors that are not chosen out of the game.

        Args:
            matches: ``LongTensor[B, A]``: number of the matched box plus one, 0 for background, -1 for
                neither.

        Returns:
            ``LongTensor[B, A]``, -1 where a prior was not chosen.
        """

    def avg_factor(self, matches: Tensor) -> Tensor:
        """What losses over a batch of selected matches are divided by, a scalar: at least 1 an image."""
        count = (matches > 0).sum(1).clamp(min=1)
        if self.avg_factor_with_neg:
            count = count + (matches == 0).sum(1).clamp(min=1)
        return count.sum()

    def sample(
        self,
        assign_result: AssignResult,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        **kwargs: Any,
    ) -> SamplingResult:
        """Positives and negatives of one image, from ``pred_instances.priors`` (``Tensor[A, 4]``)."""
        matches = self.select(assign_result.gt_inds[None])[0]
        pos_inds, neg_inds = torch.nonzero(matches > 0).flatten(), torch.nonzero(matches == 0).flatten()
        is_gt = torch.zeros(len(matches), dtype=torch.bool, device=matches.device)
        return self._result(pos_inds, neg_inds, pred_instances.priors, gt_instances, assign_result, is_gt)

    def _result(
        self,
        pos_inds: Tensor,
        neg_inds: Tensor,
        priors: Tensor,
        gt_instances: InstanceData,
        assign_result: AssignResult,
        is_gt: Tensor,
    ) -> SamplingResult:
        """The sampled ones, by their places in ``priors`` (``Tensor[A, 4]``)."""
        gt_inds = assign_result.gt_inds[pos_inds] - 1
        num_pos, num_neg = max(1, len(pos_inds)), max(1, len(neg_inds))
        return SamplingResult(
            pos_inds=pos_inds,
            neg_inds=neg_inds,
            pos_priors=priors[pos_inds],
            neg_priors=priors[neg_inds],
            gt_bboxes=gt_instances.bboxes,
            pos_assigned_gt_inds=gt_inds,
            pos_gt_labels=gt_instances.labels[gt_inds],
            pos_is_gt=is_gt[pos_inds],
            avg_factor=num_pos + num_neg if self.avg_factor_with_neg else num_pos,
        )


class PseudoSampler(BaseSampler):
    """Keeps all: for losses that weigh positives against negatives themselves, like the focal loss."""

    def select(self, matches: Tensor) -> Tensor:
        """The matches as they are."""
        return matches


class QuotaSampler(BaseSampler):
    """Base of samplers that take a fixed number of an image's priors, a share of them positives.

    A sampler defines :meth:`_sample_pos` and :meth:`_sample_neg`.

    Args:
        num: Priors of an image at most.
        pos_fraction: Share of positives at most; what they leave is filled with negatives.
        neg_pos_ub: Negatives for each positive (for one, where there is none) at most; negative: no limit.
        add_gt_as_proposals: Whether the ground truth itself joins an R-CNN's proposals.

    Raises:
        ValueError: A number or share that leaves nothing to sample.
    """

    avg_factor_with_neg = True

    def __init__(
        self, num: int, pos_fraction: float, neg_pos_ub: float = -1, add_gt_as_proposals: bool = True
    ) -> None:
        if num < 1:
            raise ValueError(f"num must be at least 1, got {num}")
        if not 0 <= pos_fraction <= 1:
            raise ValueError(f"pos_fraction must be between 0 and 1, got {pos_fraction}")
        self.num = num
        self.pos_fraction = pos_fraction
        self.neg_pos_ub = neg_pos_ub
        self.add_gt_as_proposals = add_gt_as_proposals

    def select(self, matches: Tensor) -> Tensor:
        """Not for the matches of a dense head: the choice needs more than they tell."""
        raise ConfigError(f"{type(self).__name__} samples proposals; a dense head needs a RandomSampler")

    @abstractmethod
    def _sample_pos(self, assign_result: AssignResult, num_expected: int, **kwargs: Any) -> Tensor:
        """Places ``LongTensor[<= num_expected]`` of positives."""

    @abstractmethod
    def _sample_neg(self, assign_result: AssignResult, num_expected: int, **kwargs: Any) -> Tensor:
        """Places ``LongTensor[<= num_expected]`` of negatives."""

    def sample(
        self,
        assign_result: AssignResult,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        **kwargs: Any,
    ) -> SamplingResult:
        """Positives and negatives of one image.

        Args:
            assign_result: Its matches; gets the ground truth in front where that joins.
            pred_instances: ``priors``, ``Tensor[A, 4]``, xyxy.
            gt_instances: ``bboxes`` and ``labels``.
            **kwargs: For the derived sampler.
        """
        priors, gt_bboxes = pred_instances.priors[:, :4], gt_instances.bboxes
        joining = len(gt_bboxes) if self.add_gt_as_proposals else 0
        if joining:
            priors = torch.cat([gt_bboxes.to(priors.dtype), priors])
            assign_result.add_gt_(gt_instances.labels)
        kwargs = {**kwargs, "priors": priors}
        pos_inds = self._sample_pos(assign_result, self.num_positives, **kwargs).sort().values
        wanted = self.num_negatives(len(pos_inds))
        neg_inds = self._sample_neg(assign_result, wanted, **kwargs).sort().values
        is_gt = torch.arange(len(priors), device=priors.device) < joining
        return self._result(pos_inds, neg_inds, priors, gt_instances, assign_result, is_gt)

    @property
    def num_positives(self) -> int:
        """Positives of an image at most."""
        return int(self.num * self.pos_fraction)

    def num_negatives(self, num_pos: int) -> int:
        """Negatives of an image with ``num_pos`` sampled positives at most."""
        wanted = self.num - num_pos
        return wanted if self.neg_pos_ub < 0 else min(wanted, int(self.neg_pos_ub * max(1, num_pos)))


class RandomSampler(QuotaSampler):
    """Takes positives and negatives by chance: Fast R-CNN, section 2.3; Faster R-CNN, section 3.1.3."""

    def select(self, matches: Tensor) -> Tensor:
        """Choose in all images at once; nothing depends on how many positives there are."""
        for name in ("_sample_pos", "_sample_neg"):
            if getattr(type(self), name) is not getattr(RandomSampler, name):
                kind = type(self).__name__
                raise ConfigError(
                    f"{kind} redefines {name}, which a dense head does not call: redefine select"
                )
        limit = min(self.num, matches.shape[1])
        lots = torch.rand(matches.shape, device=matches.device)
        # A row's lots above -1 are those of its candidates; the greatest of them win.
        best_pos = lots.masked_fill(matches <= 0, -1).topk(min(self.num_positives, limit), dim=1)
        best_neg = lots.masked_fill(matches != 0, -1).topk(limit, dim=1)
        pos_hit = best_pos.values >= 0
        num_pos = pos_hit.sum(1, keepdim=True)
        quota = self.num - num_pos
        if self.neg_pos_ub >= 0:
            quota = torch.minimum(quota, (self.neg_pos_ub * num_pos.clamp(min=1)).long())
        rank = torch.arange(limit, device=matches.device)
        neg_hit = (best_neg.values >= 0) & (rank < quota)
        chosen = torch.zeros_like(matches, dtype=torch.bool)
        chosen.scatter_(1, best_pos.indices, pos_hit)
        # Places of the two differ, but for those that did not win in either: they must not undo a hit.
        chosen |= torch.zeros_like(chosen).scatter_(1, best_neg.indices, neg_hit)
        return matches.masked_fill(~chosen, -1)

    def _sample_pos(self, assign_result: AssignResult, num_expected: int, **kwargs: Any) -> Tensor:
        return random_choice(torch.nonzero(assign_result.gt_inds > 0).flatten(), num_expected)

    def _sample_neg(self, assign_result: AssignResult, num_expected: int, **kwargs: Any) -> Tensor:
        return random_choice(torch.nonzero(assign_result.gt_inds == 0).flatten(), num_expected)


def random_choice(places: Tensor, limit: int) -> Tensor:
    """At most ``limit`` of the places ``LongTensor[N]``, by chance, each with equal probability."""
    if len(places) <= limit:
        return places
    return places[torch.randperm(len(places), device=places.device)[:limit]]
