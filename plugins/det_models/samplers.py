"""Which of the matched anchors or proposals a loss gets to see."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from det_models.assign import AssignResult
from detcore.structures import InstanceData


@dataclass(slots=True)
class SamplingResult:
    """Positives and negatives of one image.

    Attributes:
        pos_inds: ``LongTensor[P]``, places of the positives among the priors.
        neg_inds: ``LongTensor[Q]``, places of the negatives.
        priors: ``Tensor[A, 4]``, xyxy, what was sampled from.
        gt_bboxes: ``Tensor[G, 4]``, xyxy.
        pos_assigned_gt_inds: ``LongTensor[P]``, box that each positive answers for.
        pos_gt_labels: ``LongTensor[P]``, its class.
        pos_is_gt: ``BoolTensor[P]``, whether the positive is a ground truth box that was added to the priors.
        avg_factor: What a loss over this image is divided by, at least 1.
    """

    pos_inds: Tensor
    neg_inds: Tensor
    priors: Tensor
    gt_bboxes: Tensor
    pos_assigned_gt_inds: Tensor
    pos_gt_labels: Tensor
    pos_is_gt: Tensor
    avg_factor: int

    @property
    def pos_priors(self) -> Tensor:
        """``Tensor[P, 4]``, xyxy."""
        return self.priors[self.pos_inds]

    @property
    def neg_priors(self) -> Tensor:
        """``Tensor[Q, 4]``, xyxy."""
        return self.priors[self.neg_inds]

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
        counted = matches >= 0 if self.avg_factor_with_neg else matches > 0
        return counted.sum(1).clamp(min=1).sum()

    def sample(
        self,
        assign_result: AssignResult,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        **kwargs: Any,
    ) -> SamplingResult:
        """Positives and negatives of one image, from ``pred_instances.priors`` (``Tensor[A, 4]``)."""
        matches = self.select(assign_result.gt_inds[None])[0]
        pos_inds = torch.nonzero(matches > 0).flatten()
        gt_inds = matches[pos_inds] - 1
        labels = gt_instances.labels
        return SamplingResult(
            pos_inds=pos_inds,
            neg_inds=torch.nonzero(matches == 0).flatten(),
            priors=pred_instances.priors,
            gt_bboxes=gt_instances.bboxes,
            pos_assigned_gt_inds=gt_inds,
            pos_gt_labels=labels[gt_inds],
            pos_is_gt=torch.zeros_like(pos_inds, dtype=torch.bool),
            avg_factor=int(self.avg_factor(matches[None])),
        )


class PseudoSampler(BaseSampler):
    """Keeps all: for losses that weigh positives against negatives themselves, like the focal loss."""

    def select(self, matches: Tensor) -> Tensor:
        """The matches as they are."""
        return matches
