"""Samplers of proposals that do not leave the choice to chance alone."""

from collections.abc import Callable
from typing import Annotated, Any

import torch
from torch import Tensor

from det_models.assign import AssignResult
from det_models.samplers import QuotaSampler, random_choice
from detcore.registry import TASK_UTILS, Factory

SamplerFactory = Annotated[Callable[..., QuotaSampler], Factory(TASK_UTILS)]


class InstanceBalancedPosSampler(QuotaSampler):
    """Positives in equal numbers for every object, negatives by chance: Libra R-CNN (Pang et al. 2019)."""

    def _sample_pos(self, assign_result: AssignResult, num_expected: int, **kwargs: Any) -> Tensor:
        places = torch.nonzero(assign_result.gt_inds > 0).flatten()
        if len(places) <= num_expected:
            return places
        owners = assign_result.gt_inds[places]
        objects = owners.unique().tolist()
        share = round(num_expected / len(objects)) + 1
        chosen = torch.cat([random_choice(places[owners == number], share) for number in objects])
        if len(chosen) > num_expected:
            return random_choice(chosen, num_expected)
        return _filled(chosen, places, num_expected)

    def _sample_neg(self, assign_result: AssignResult, num_expected: int, **kwargs: Any) -> Tensor:
        return random_choice(torch.nonzero(assign_result.gt_inds == 0).flatten(), num_expected)


class IoUBalancedNegSampler(QuotaSampler):
    """Negatives from equal intervals of overlap, since the hard ones are few: Libra R-CNN, section 3.1.

    Positives are to come from another sampler, see :class:`CombinedSampler`.

    Args:
        num: Priors of an image at most.
        pos_fraction: Share of positives at most.
        floor_thr: Negatives that overlap an object less than this are drawn by chance; 0: those that overlap
            none; negative: all are drawn from the intervals.
        floor_fraction: Share of the negatives that those make up.
        num_bins: Intervals of overlap above ``floor_thr``.
        **kwargs: See :class:`~det_models.samplers.QuotaSampler`.

    Raises:
        ValueError: Shares or numbers out of range.
    """

    def __init__(
        self,
        num: int,
        pos_fraction: float,
        floor_thr: float = -1,
        floor_fraction: float = 0,
        num_bins: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__(num, pos_fraction, **kwargs)
        if not 0 <= floor_fraction <= 1:
            raise ValueError(f"floor_fraction must be between 0 and 1, got {floor_fraction}")
        if num_bins < 1:
            raise ValueError(f"num_bins must be at least 1, got {num_bins}")
        self.floor_thr = floor_thr
        self.floor_fraction = floor_fraction
        self.num_bins = num_bins

    def _sample_pos(self, assign_result: AssignResult, num_expected: int, **kwargs: Any) -> Tensor:
        raise TypeError("IoUBalancedNegSampler samples negatives only; use it in a CombinedSampler")

    def _sample_neg(self, assign_result: AssignResult, num_expected: int, **kwargs: Any) -> Tensor:
        places = torch.nonzero(assign_result.gt_inds == 0).flatten()
        if len(places) <= num_expected:
            return places
        overlaps = assign_result.max_overlaps[places]
        in_floor = overlaps < self.floor_thr if self.floor_thr > 0 else overlaps <= self.floor_thr
        above, floor = places[~in_floor], places[in_floor]
        wanted = int(num_expected * (1 - self.floor_fraction))
        if len(above) > wanted:
            above = self._from_bins(above, overlaps[~in_floor], wanted)
        chosen = torch.cat([above, random_choice(floor, num_expected - len(above))])
        return _filled(chosen, places, num_expected)

    def _from_bins(self, places: Tensor, overlaps: Tensor, wanted: int) -> Tensor:
        if self.num_bins == 1:
            return random_choice(places, wanted)
        least = max(0.0, self.floor_thr)
        width = (overlaps.max() - least) / self.num_bins
        if width <= 0:  # all overlap alike
            return random_choice(places, wanted)
        bins = ((overlaps - least) / width).long().clamp(max=self.num_bins - 1)
        share = wanted // self.num_bins
        chosen = torch.cat([random_choice(places[bins == number], share) for number in range(self.num_bins)])
        return _filled(chosen, places, wanted)


class CombinedSampler(QuotaSampler):
    """Positives of one sampler, negatives of another.

    Args:
        pos_sampler: Samples the positives; gets the arguments below that it is not given itself.
        neg_sampler: Samples the negatives, likewise.
        num: Priors of an image at most.
        pos_fraction: Share of positives at most.
        neg_pos_ub: Negatives for each positive at most; negative: no limit.
        add_gt_as_proposals: Whether the ground truth itself joins the proposals.
    """

    def __init__(
        self,
        pos_sampler: SamplerFactory,
        neg_sampler: SamplerFactory,
        num: int,
        pos_fraction: float,
        neg_pos_ub: float = -1,
        add_gt_as_proposals: bool = True,
    ) -> None:
        super().__init__(num, pos_fraction, neg_pos_ub, add_gt_as_proposals)
        self.pos_sampler = pos_sampler(num=num, pos_fraction=pos_fraction)
        self.neg_sampler = neg_sampler(num=num, pos_fraction=pos_fraction)

    def _sample_pos(self, assign_result: AssignResult, num_expected: int, **kwargs: Any) -> Tensor:
        return self.pos_sampler._sample_pos(assign_result, num_expected, **kwargs)

    def _sample_neg(self, assign_result: AssignResult, num_expected: int, **kwargs: Any) -> Tensor:
        return self.neg_sampler._sample_neg(assign_result, num_expected, **kwargs)


class OHEMSampler(QuotaSampler):
    """The proposals with the greatest classification loss: OHEM (Shrivastava et al. 2016).

    The head that samples hands a function ``hardness(boxes, labels)`` on, which gives the losses of boxes
    ``Tensor[N, 4]`` (xyxy, absolute pixels) with labels ``LongTensor[N]`` (-1 for background).
    """

    def _sample_pos(self, assign_result: AssignResult, num_expected: int, **kwargs: Any) -> Tensor:
        return self._hardest(assign_result.gt_inds > 0, assign_result, num_expected, kwargs)

    def _sample_neg(self, assign_result: AssignResult, num_expected: int, **kwargs: Any) -> Tensor:
        return self._hardest(assign_result.gt_inds == 0, assign_result, num_expected, kwargs)

    @torch.no_grad()
    def _hardest(
        self, candidates: Tensor, assign_result: AssignResult, num_expected: int, given: dict[str, Any]
    ) -> Tensor:
        places = torch.nonzero(candidates).flatten()
        if len(places) <= num_expected:
            return places
        if "hardness" not in given:
            raise TypeError("OHEMSampler needs hardness=..., the losses of proposals, from who samples")
        labels = torch.where(assign_result.gt_inds[places] > 0, assign_result.labels[places], -1)
        losses = given["hardness"](given["priors"][places], labels)
        return places[losses.topk(num_expected).indices]


def _filled(chosen: Tensor, places: Tensor, wanted: int) -> Tensor:
    """The chosen ones and, where they are fewer than ``wanted``, more of the places by chance."""
    if len(chosen) >= wanted:
        return chosen
    rest = places[~torch.isin(places, chosen)]
    return torch.cat([chosen, random_choice(rest, wanted - len(chosen))])
