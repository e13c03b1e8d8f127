"""Bitmaps within boxes, sampled to one size as RoIAlign does."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from detcore.structures.mask.product import product

# Two ways of rounding in float32 differ by less at coordinates of up to 2,000 pixels.
_ROUNDING = 3e-4


def sample_boxes(
    masks: np.ndarray, boxes: np.ndarray, positions: np.ndarray, out_shape: tuple[int, int], binarize: bool
) -> np.ndarray:
    """The mask of each box within it: the mean of bilinear samples in each bin (He et al. 2017, RoIAlign).

    Samples lie on a grid along the axes, so their means are one product from the left and one from the right
    with the pixels of the box; other pixels are not looked at. Where it is a matter of rounding whether a
    mean reaches 0.5, and for boxes that reach out of the image, the operator itself decides.

    Args:
        masks: ``(N, height, width)`` of 0 and 1.
        boxes: float32 ``(K, 4)`` xyxy in pixels.
        positions: ``(K,)``: which mask belongs to which box.
        out_shape: Height and width of the results.
        binarize: Whether to threshold at 0.5.

    Returns:
        ``(K, *out_shape)``: uint8 of 0 and 1, or float32 between them.
    """
    height, width = masks.shape[1:]
    sampled = np.zeros((len(boxes), *out_shape), np.float32)
    inside = ((boxes >= 0) & (boxes <= (width, height, width, height))).all(1)
    for row in np.flatnonzero(inside).tolist():
        x1, y1, x2, y2 = boxes[row]
        top, down = _bin_weights(y1, y2, out_shape[0], height)
        left, across = _bin_weights(x1, x2, out_shape[1], width)
        pixels = masks[positions[row], top : top + down.shape[1], left : left + across.shape[1]]
        sampled[row] = product(product(down, pixels.astype(np.float32)), across.T)
    by_operator = ~inside
    if binarize:
        by_operator |= (np.abs(sampled - 0.5) < _ROUNDING).any((1, 2))
    for row in np.flatnonzero(by_operator).tolist():
        bitmap = torch.from_numpy(np.ascontiguousarray(masks[positions[row]]))
        box = torch.from_numpy(boxes[row : row + 1])
        sampled[row] = roi_align_masks(bitmap[None], box, torch.zeros(1), out_shape)[0].numpy()
    return (sampled >= 0.5).astype(np.uint8) if binarize else sampled


def roi_align_masks(masks: Tensor, boxes: Tensor, positions: Tensor, out_shape: tuple[int, int]) -> Tensor:
    """The same by torchvision's operator, on any device.

    Args:
        masks: ``Tensor[N, height, width]`` of 0 and 1, any type.
        boxes: ``Tensor[K, 4]`` xyxy in pixels.
        positions: ``Tensor[K]``: which mask belongs to which box.
        out_shape: Height and width of the results.

    Returns:
        ``Tensor[K, *out_shape]``, float32.
    """
    from torchvision.ops import roi_align  # takes as long to import as torch

    regions = torch.cat([positions.to(boxes)[:, None], boxes], 1)
    return roi_align(masks[:, None].float(), regions, out_shape, 1.0, 0, True)[:, 0]


def _bin_weights(low: np.float32, high: np.float32, bins: int, size: int) -> tuple[int, np.ndarray]:
    """Share of each pixel in each bin along one axis.

    Args:
        low: Where the box begins, in pixels; it ends at ``high``.
        bins: Of the result along this axis.
        size: Of the image along this axis, in pixels.

    Returns:
        The first pixel that counts, and float32 ``(bins, pixels)``.
    """
    # Float32, because the number of samples hangs on it.
    begin = np.float32(low) - np.float32(0.5)
    side = np.float32(high) - np.float32(0.5) - begin
    samples = int(np.ceil(side / np.float32(bins)))
    first = min(max(int(np.floor(begin)), 0), max(size - 2, 0))
    if samples <= 0:
        return first, np.zeros((bins, 0), np.float32)
    places = float(begin) + (np.arange(bins * samples) + 0.5) * (float(side) / bins / samples)
    places = places.clip(0, size - 1)
    lower = np.minimum(places.astype(np.int64), max(size - 2, 0))
    share = (places - lower) / samples
    columns = int(lower[-1]) + 2 - first
    flat = np.repeat(np.arange(bins) * columns, samples) + lower - first
    weights = np.bincount(flat, 1 / samples - share, bins * columns)
    weights += np.bincount(flat + 1, share, bins * columns)
    # In an image of one pixel the second column has no pixel, and no weight.
    return first, weights.reshape(bins, columns)[:, : size - first].astype(np.float32)
