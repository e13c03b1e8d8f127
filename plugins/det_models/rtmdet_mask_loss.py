"""What the masks of RTMDet-Ins learn: those of the cells that answer for an object, at a part of the size."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from det_models.host import host_tensor, reduce_mean
from det_models.postprocess import flatten_levels
from det_models.rtmdet_losses import MatchedCells
from det_models.rtmdet_masks import mask_logits
from det_models.truth import GroundTruth
from detcore.errors import DataError
from detcore.structures import InstanceData


def mask_loss(head: Any, kernel_preds: Sequence[Tensor], mask_feat: Tensor, found: MatchedCells) -> Tensor:
    """Loss of the masks of all cells that answer for an object, divided by their number."""
    most = getattr(head.train_cfg.assigner, "topk", None)  # cells of an object
    rows = mask_rows(found.matches, found.truth, most if isinstance(most, int) else None)
    kernels = flatten_levels(kernel_preds, head.num_gen_params).flatten(0, 1)[rows.index]
    kernels = torch.where(rows.weights[:, None] > 0, kernels, 0)
    points = found.points[rows.index % len(found.points)]
    logits = mask_logits(head, mask_feat, kernels, points, rows.counts)
    scale = head.strides[0] // head.mask_loss_stride
    logits = F.interpolate(logits[None], scale_factor=scale, mode="bilinear", align_corners=False)[0]
    size = (logits.shape[-2], logits.shape[-1])
    masks = sampled_masks(found.truth.instances, head.mask_loss_stride, size, logits.device)
    total = reduce_mean(rows.weights.sum()).clamp(min=1)
    loss: Tensor = head.loss_mask(logits, masks[rows.objects], weight=rows.weights, avg_factor=total)
    return loss


@dataclass(slots=True)
class MaskRows:
    """The cells of a batch, rows of ``[B * A]``, whose masks a loss is reckoned on.

    Attributes:
        index: ``LongTensor[P]``, the rows, those of the first image first.
        counts: Rows of each image, on the host.
        weights: ``Tensor[P]``, 1 for rows with an object, else 0.
        objects: ``LongTensor[P]``, numbers of the objects among those of the whole batch; 0 without one.
    """

    index: Tensor
    counts: list[int]
    weights: Tensor
    objects: Tensor


@torch.no_grad()
def mask_rows(matches: Tensor, truth: GroundTruth, most: int | None, *, bounded: bool = False) -> MaskRows:
    """Rows with an object.

    On the CPU these are all. On a device their number would have to be waited for, so there each image gets
    as many rows as its objects can have, and those that have none get the weight 0: the same sum.

    Args:
        matches: ``LongTensor[B, A]``, number of the box plus one, 0 and below without one.
        truth: Ground truth of the B images.
        most: Rows of an object at most, where that is known.
        bounded: Take as many rows as there can be on the CPU, too.
    """
    num_priors = matches.shape[1]
    positive = matches > 0
    on_host = matches.device.type == "cpu" and not torch.compiler.is_compiling() and not bounded
    if most is None or on_host:
        index = torch.nonzero(positive.flatten()).flatten()
        counts = positive.sum(1).tolist()
        if not len(index):  # one row of weight 0, through which nothing is learnt of all the same
            index, counts[0] = index.new_zeros(1), 1
    else:
        counts = [min(most * number, num_priors) for number in truth.counts]
        if not any(counts):
            counts[0] = 1
        first = positive.float().topk(max(counts), dim=1).indices
        starts = range(0, len(counts) * num_priors, num_priors)
        index = torch.cat(
            [row[:count] + start for row, count, start in zip(first, counts, starts, strict=True)]
        )
    flat = matches.flatten()[index]
    before = host_tensor([0, *itertools.accumulate(truth.counts)][:-1], flat)
    weights = (flat > 0).float()
    objects = torch.where(flat > 0, flat - 1 + before[index // num_priors], 0)
    return MaskRows(index, counts, weights, objects)


def sampled_masks(
    batch_gt_instances: Sequence[InstanceData], stride: int, size: tuple[int, int], device: torch.device
) -> Tensor:
    """Every so many pixels of all objects' masks.

    Args:
        batch_gt_instances: ``masks`` of each image.
        stride: Pixels between two samples, each way; the first is at half of that.
        size: (h, w) of the result; 0 where an image, which may be smaller than its batch, ends.
        device: Where it is wanted.

    Returns:
        ``Tensor[N, h, w]`` of 0 and 1, uint8, for the N objects of the batch; one of zeros where it has none.

    Raises:
        DataError: An image's ground truth has no masks.
    """
    numbers = [len(instances) for instances in batch_gt_instances]
    pinned = device.type == "cuda"
    sampled = torch.zeros(max(1, sum(numbers)), *size, dtype=torch.uint8, pin_memory=pinned)
    start, every = 0, slice(stride // 2, None, stride)
    for number, (instances, count) in enumerate(zip(batch_gt_instances, numbers, strict=True)):
        if "masks" not in instances:
            raise DataError(
                f"image {number} of the batch has no gt_instances.masks, which a mask head learns from: its "
                "pipeline needs LoadAnnotations(with_mask=True)"
            )
        if count:
            masks = instances.masks.to_ndarray()[:, every, every][:, : size[0], : size[1]]
            sampled.numpy()[start : start + count, : masks.shape[1], : masks.shape[2]] = masks
        start += count
    return sampled.to(device, non_blocking=pinned)
