"""What the priors of a dense head are to predict."""

from dataclasses import dataclass

import torch
from torch import Tensor

from det_models.truth import GroundTruth


@dataclass(slots=True)
class DenseTargets:
    """What A priors of B images are to predict.

    Attributes:
        matches: ``LongTensor[B, A]``: number of the matched box plus one, 0 for background, -1 for neither.
        labels: ``LongTensor[B, A]``, the number of classes for background.
        label_weights: ``Tensor[B, A]``, 0 where a prior does not count.
        avg_factor: What losses are divided by, a scalar on the device, the mean over ranks.
    """

    matches: Tensor
    labels: Tensor
    label_weights: Tensor
    avg_factor: Tensor


@dataclass(slots=True)
class RegressedRows:
    """The rows of a flattened level, ``[B * A]``, that a box loss is reckoned on.

    Attributes:
        index: ``LongTensor[R]``, the rows.
        priors: ``Tensor[R, 4]``, xyxy.
        gt_boxes: ``Tensor[R, 4]``, xyxy, the matched boxes; the prior itself in a row without one.
        weights: ``Tensor[R, 4]``, 1 for matched rows, else 0.
    """

    index: Tensor
    priors: Tensor
    gt_boxes: Tensor
    weights: Tensor


@torch.no_grad()
def regressed_rows(
    matches: Tensor, priors: Tensor, truth: GroundTruth, *, every: bool = False
) -> RegressedRows:
    """Rows of one level that the box loss is reckoned on.

    On the CPU these are the positives, which are few. On a device their number would have to be waited for,
    so there all rows are taken, and those that are not positive get the weight 0: the same sum.

    Args:
        matches: ``LongTensor[B, A]`` of the level (see :class:`DenseTargets`).
        priors: ``Tensor[A, 4]`` of the level, xyxy.
        truth: Ground truth of the B images.
        every: Take all rows on the CPU, too.
    """
    num_priors = len(priors)
    flat = matches.flatten()
    if every or matches.device.type != "cpu" or torch.compiler.is_compiling():
        index = torch.arange(len(flat), device=flat.device)
    else:
        index = torch.nonzero(flat > 0).flatten()
        if not len(index):  # one row of weight 0, since many a loss cannot do without any
            index = index.new_zeros(1)
    match = flat[index]
    image = index // num_priors
    chosen = priors[index % num_priors]
    positive = (match > 0)[:, None]
    boxes = truth.boxes[image, (match - 1).clamp(min=0)].to(chosen.dtype)
    return RegressedRows(
        index=index,
        priors=chosen,
        gt_boxes=torch.where(positive, boxes, chosen),
        weights=positive.to(chosen.dtype).expand(-1, 4),
    )
