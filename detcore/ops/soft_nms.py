"""Suppression that lowers scores instead of deleting boxes."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: Literal["linear", "gaussian", "naive"] = "linear",
    offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """Soft-NMS (Bodla et al. 2017): each chosen box lowers the scores of those that it overlaps.

    Args:
        boxes: ``Tensor[N, 4]``, xyxy, pixels.
        scores: ``Tensor[N]``.
        iou_threshold: ``'linear'`` and ``'naive'`` touch boxes with a larger IoU only.
        sigma: Width of the ``'gaussian'`` decay.
        min_score: Boxes end where their score falls to this.
        method: ``'linear'`` multiplies by 1 - IoU, ``'gaussian'`` by exp(-IoU^2 / sigma), ``'naive'`` by 0.
        offset: 1 for boxes whose width is ``x2 - x1 + 1``, else 0.

    Returns:
        ``(dets, keep)``: ``Tensor[K, 5]`` (x1, y1, x2, y2, lowered score) by falling score, and their
        positions ``Tensor[K]`` in the input.

    Raises:
        ValueError: The method is unknown.
    """
    if method not in ("linear", "gaussian", "naive"):
        raise ValueError(f"method must be 'linear', 'gaussian' or 'naive', got {method!r}")
    # One box after the other is the algorithm: on a GPU each step would be a kernel and a synchronisation.
    xyxy = boxes.detach().cpu().double().numpy().copy()
    xyxy[:, 2:] += offset
    left = scores.detach().cpu().double().numpy().copy()
    areas = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
    left[~(left > min_score)] = -np.inf
    chosen: list[int] = []
    lowered: list[float] = []
    while len(left) and left.max() > -np.inf:
        best = int(left.argmax())
        chosen.append(best)
        lowered.append(float(left[best]))
        left[best] = -np.inf
        low = np.maximum(xyxy[best, :2], xyxy[:, :2])
        sides = np.clip(np.minimum(xyxy[best, 2:], xyxy[:, 2:]) - low, 0, None)
        overlap = sides[:, 0] * sides[:, 1]
        iou = overlap / np.maximum(areas[best] + areas - overlap, 1e-12)
        if method == "gaussian":
            weight = np.exp(-(iou**2) / sigma)
        else:
            weight = np.where(iou > iou_threshold, 1 - iou if method == "linear" else 0.0, 1.0)
        alive = left > -np.inf
        left[alive] *= weight[alive]
        left[alive & ~(left > min_score)] = -np.inf
    keep = torch.tensor(chosen, dtype=torch.long, device=boxes.device)
    new_scores = torch.tensor(lowered, dtype=boxes.dtype, device=boxes.device)
    return torch.cat([boxes[keep], new_scores[:, None]], 1), keep
