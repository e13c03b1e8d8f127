"""Which points answer for which object by size and distance: RepPoints' first stage."""

from typing import Any

import torch
from torch import Tensor

from det_models.assign import AssignResult, BaseAssigner
from det_models.truth import GroundTruth
from detcore.structures import InstanceData


class PointAssigner(BaseAssigner):
    """The ``pos_num`` points that are nearest to an object's centre on the level of its size.

    RepPoints (Yang et al. 2019), section 3.3: an object of width w and height h is of level ``floor(log2(
    sqrt(w h) / scale))``, that whose stride is two to that power, or the nearest that there is. Distances are
    in parts of the object's width and height. A point that several objects have chosen answers for the
    nearest, of equally near ones for the first.

    Args:
        scale: Size of an object, in strides of its level.
        pos_num: Points of each object.

    Raises:
        ValueError: There would be no point.
    """

    def __init__(self, scale: float = 4, pos_num: int = 3) -> None:
        if pos_num < 1:
            raise ValueError(f"pos_num is a number of points, at least 1, got {pos_num}")
        self.scale = scale
        self.pos_num = pos_num

    def assign(
        self,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None = None,
        **kwargs: Any,
    ) -> AssignResult:
        """Match one image.

        Args:
            pred_instances: ``priors``, (x, y, stride) of each point, ``Tensor[A, 3]`` or more.
            gt_instances: ``bboxes`` and ``labels``.
            gt_instances_ignore: Not looked at.
            **kwargs: Have no effect.

        Returns:
            With overlaps of 0: nothing is measured here.
        """
        truth = GroundTruth.pack([gt_instances])
        matches = self.match(pred_instances.priors, truth)
        return AssignResult(
            num_gts=truth.counts[0],
            gt_inds=matches[0],
            max_overlaps=truth.boxes.new_zeros(len(matches[0])),
            labels=truth.labels_at(matches, -1)[0],
        )

    @torch.no_grad()
    def match(self, priors: Tensor, truth: GroundTruth, valid: Tensor | None = None) -> Tensor:
        """Match a batch; see :meth:`BaseAssigner.match`. Priors are ``Tensor[A, 3]``, (x, y, stride)."""
        levels = priors[:, 2].log2().int()
        sizes = (truth.boxes[..., 2:] - truth.boxes[..., :2]).clamp(min=1e-6)
        wanted = ((sizes / self.scale).log2().sum(-1) / 2).int()
        wanted = torch.minimum(torch.maximum(wanted, levels.min()), levels.max())
        centers = (truth.boxes[..., :2] + truth.boxes[..., 2:]) / 2
        distances = ((priors[:, :2] - centers[:, :, None]) / sizes[:, :, None]).norm(dim=-1)
        there = (levels == wanted[..., None]) & truth.mask[..., None]
        if valid is not None:
            there &= valid[:, None]
        distances = torch.where(there, distances, torch.inf)
        nearest = distances.topk(min(self.pos_num, len(priors)), largest=False).indices
        chosen = torch.zeros_like(there).scatter(-1, nearest, True)
        least, number = torch.where(chosen, distances, torch.inf).min(1)
        matches = torch.where(least < torch.inf, number + 1, 0)
        return matches if valid is None else matches.masked_fill(~valid, -1)
