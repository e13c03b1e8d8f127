"""Which square answers for which ground truth, by the shapes that it stands for."""

from typing import Any

import torch
from torch import Tensor

from det_models.assign import AssignResult, MaxIoUAssigner
from det_models.truth import GroundTruth
from detcore.structures import InstanceData


class ApproxMaxIoUAssigner(MaxIoUAssigner):
    """By the best overlap of several shapes: Guided Anchoring (Wang et al. 2019).

    A prior whose own shape is still to be found stands for several (a RetinaNet's nine anchors of a cell,
    say): it overlaps an object as well as the best of them does. By that, the rules are those of
    :class:`~det_models.assign.MaxIoUAssigner`, and so are the arguments. Ignored regions are compared with
    the prior itself.
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
            pred_instances: ``priors`` (``Tensor[A, 4]``, xyxy) and ``approxs`` (``Tensor[A, K, 4]``), the K
                shapes that each stands for.
            gt_instances: ``bboxes`` and ``labels``.
            gt_instances_ignore: ``bboxes`` of the ignored regions.
            **kwargs: Have no effect.
        """
        return self._assign(pred_instances.priors, gt_instances, gt_instances_ignore, pred_instances.approxs)

    @torch.no_grad()
    def match(
        self,
        priors: Tensor,
        truth: GroundTruth,
        valid: Tensor | None = None,
        approxs: Tensor | None = None,
    ) -> Tensor:
        """Match a batch.

        Args:
            priors: ``Tensor[A, 4]``, xyxy, the same for every image.
            truth: Ground truth of the B images.
            valid: ``BoolTensor[B, A]``, which priors take part; None for all.
            approxs: ``Tensor[A, K, 4]``, the K shapes that each stands for.

        Returns:
            ``LongTensor[B, A]``: number of the matched box plus one, 0 for background, -1 for neither.

        Raises:
            ValueError: The head that matches has no such shapes.
        """
        if approxs is None:
            raise ValueError(
                "ApproxMaxIoUAssigner goes by the shapes that each prior stands for (approxs), which this "
                "head does not have; MaxIoUAssigner goes by the priors alone"
            )
        return self._match(priors, truth, valid, approxs)
