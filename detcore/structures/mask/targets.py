"""What a mask head has to predict for each of its boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from detcore.structures.mask.bitmap import BitmapMasks
from detcore.structures.mask.polygon import PolygonMasks
from detcore.structures.mask.roi_sample import roi_align_masks


def mask_target(
    pos_proposals_list: Sequence[Tensor],
    pos_assigned_gt_inds_list: Sequence[Tensor],
    gt_masks_list: Sequence[BitmapMasks | PolygonMasks],
    mask_size: int | tuple[int, int],
    soft_mask_target: bool = False,
) -> Tensor:
    """The mask of each positive proposal's object within the proposal (He et al. 2017).

    Proposals are cut to the image first. Bitmaps are averaged over each cell as RoIAlign does, and count from
    0.5 on; polygons are moved, scaled and filled. On an accelerator bitmaps are sampled there, and nothing
    waits for it; polygons are filled by the CPU.

    Args:
        pos_proposals_list: Of each image ``Tensor[P_i, 4]`` xyxy, in pixels of the network's input.
        pos_assigned_gt_inds_list: Of each image ``Tensor[P_i]`` integers: which object a proposal belongs to.
        gt_masks_list: The objects' masks of each image.
        mask_size: Height and width of the targets; a number means both.
        soft_mask_target: Whether bitmaps' targets stay fractions.

    Returns:
        ``Tensor[P, h, w]`` float32 of 0 and 1, images one after the other; where proposals are.

    Raises:
        ValueError: The lists differ in length, or proposals and indices of an image do.
        IndexError: There is no such object (on a CPU).
    """
    size = (mask_size, mask_size) if isinstance(mask_size, int) else (int(mask_size[0]), int(mask_size[1]))
    _check(pos_proposals_list, pos_assigned_gt_inds_list, gt_masks_list)
    if not pos_proposals_list:
        return torch.zeros(0, *size)
    device = pos_proposals_list[0].device
    proposals = [_cut(boxes, masks) for boxes, masks in zip(pos_proposals_list, gt_masks_list, strict=True)]
    if device.type != "cpu" and all(isinstance(masks, BitmapMasks) for masks in gt_masks_list):
        triples = zip(proposals, pos_assigned_gt_inds_list, gt_masks_list, strict=True)
        parts = [_on_device(*triple, size) for triple in triples]
        targets = torch.cat(parts)
        return targets if soft_mask_target else (targets >= 0.5).float()
    # One copy to the CPU for all images: each one waits for the device.
    counts = [len(boxes) for boxes in proposals]
    chosen = torch.cat(list(pos_assigned_gt_inds_list)).to(proposals[0])
    rows = torch.cat([torch.cat(proposals), chosen[:, None]], 1).cpu().numpy()
    arrays: list[np.ndarray] = []
    for masks, part in zip(gt_masks_list, np.split(rows, np.cumsum(counts)[:-1]), strict=True):
        cropped = masks.crop_and_resize(
            part[:, :4], size, part[:, 4].astype(np.int64), binarize=not soft_mask_target
        )
        arrays.append(cropped.to_ndarray())
    return torch.from_numpy(np.concatenate(arrays)).to(device=device, dtype=torch.float32)


def _check(
    proposals: Sequence[Tensor], inds: Sequence[Tensor], masks: Sequence[BitmapMasks | PolygonMasks]
) -> None:
    if not len(proposals) == len(inds) == len(masks):
        raise ValueError(
            f"got proposals of {len(proposals)} images, indices of {len(inds)} and masks of {len(masks)}"
        )
    for image, (boxes, chosen) in enumerate(zip(proposals, inds, strict=True)):
        if boxes.dim() != 2 or boxes.size(1) != 4 or chosen.shape != (len(boxes),):
            raise ValueError(
                f"image {image} of the batch: proposals must be [P, 4] and their objects [P], "
                f"got shapes {tuple(boxes.shape)} and {tuple(chosen.shape)}"
            )


def _cut(boxes: Tensor, masks: BitmapMasks | PolygonMasks) -> Tensor:
    """Boxes cut to the image of the masks, float32."""
    x = boxes.detach()[:, 0::2].float().clamp(0, masks.width)
    y = boxes.detach()[:, 1::2].float().clamp(0, masks.height)
    return torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1)


def _on_device(
    boxes: Tensor, inds: Tensor, masks: BitmapMasks | PolygonMasks, size: tuple[int, int]
) -> Tensor:
    """Soft targets of one image by the device; every bitmap travels once, as bytes."""
    bitmaps = torch.from_numpy(np.ascontiguousarray(masks.to_ndarray()))
    if boxes.is_cuda:
        bitmaps = bitmaps.pin_memory()  # else the copy waits for everything before it
    on_device = bitmaps.to(boxes.device, non_blocking=True)
    return roi_align_masks(on_device, boxes, inds, size)
