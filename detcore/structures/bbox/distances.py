"""Boxes as distances of a point to their four sides (FCOS and its kin)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def distance2bbox(
    points: Tensor,
    distance: Tensor,
    max_shape: Sequence[int] | Sequence[Sequence[int]] | Tensor | None = None,
) -> Tensor:
    """Boxes from points and their distances to the sides.

    Args:
        points: ``Tensor[..., N, 2]``, (x, y) in pixels.
        distance: ``Tensor[..., N, 4]``, to left, top, right, bottom, in pixels.
        max_shape: Height and width that boxes are cut to: one pair, or for batches ``[B, 2]``.

    Returns:
        ``Tensor[..., N, 4]``, xyxy.
    """
    boxes = torch.cat([points - distance[..., :2], points + distance[..., 2:]], -1)
    if max_shape is None:
        return boxes
    limits = torch.as_tensor(max_shape, dtype=boxes.dtype, device=boxes.device)
    if limits.dim() == 1:
        # Plain numbers do not have to travel to the device.
        height, width = (float(v) for v in max_shape) if not isinstance(max_shape, Tensor) else limits[:2]  # type: ignore[arg-type]
        return torch.stack(
            [
                boxes[..., 0].clamp(0, width),
                boxes[..., 1].clamp(0, height),
                boxes[..., 2].clamp(0, width),
                boxes[..., 3].clamp(0, height),
            ],
            -1,
        )
    if limits.shape != (boxes.size(0), 2) or boxes.dim() != 3:
        raise ValueError(
            f"max_shape of shape {tuple(limits.shape)} does not fit boxes of shape {tuple(boxes.shape)}: "
            "give (height, width), or one pair an image for batched boxes"
        )
    upper = limits.flip(-1).repeat(1, 2).unsqueeze(1)
    return torch.minimum(boxes.clamp(min=0), upper)


def bbox2distance(points: Tensor, bbox: Tensor, max_dis: float | None = None, eps: float = 0.1) -> Tensor:
    """Distances of points to the sides of boxes: the inverse of :func:`distance2bbox`.

    Args:
        points: ``Tensor[..., N, 2]``, (x, y) in pixels.
        bbox: ``Tensor[..., N, 4]``, xyxy.
        max_dis: Upper bound; distances are then cut to ``[0, max_dis - eps]``.
        eps: Keeps them below the bound itself.

    Returns:
        ``Tensor[..., N, 4]``: to left, top, right, bottom, in pixels; negative where the point is outside.
    """
    distances = torch.cat([points - bbox[..., :2], bbox[..., 2:4] - points], -1)
    return distances if max_dis is None else distances.clamp(min=0, max=max_dis - eps)
