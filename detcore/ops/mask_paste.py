"""Masks of boxes, drawn into the image at full size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detcore.structures.mask.product import product
from detcore.structures.mask.run_length import encode_mask

_LEAST = float(torch.finfo(torch.float32).tiny)

DEVICE_BYTES = 1 << 29  # floats in flight when masks are pasted on an accelerator


def paste_masks(
    masks: Tensor, boxes: Tensor, image_size: tuple[int, int], threshold: float = 0.5
) -> Tensor:
    """Each box's mask, scaled to the box and laid into an image (He et al. 2017, section 3).

    Masks are sampled bilinearly at the pixels' centres, with zeros around them, and that only where a box and
    half a cell of its mask around it reach: the rest is zero anyway. On a CPU no full-size array of floats
    comes into being; the largest one is as large as the largest box.

    Args:
        masks: ``Tensor[N, h, w]``, probabilities.
        boxes: ``Tensor[N, 4]`` xyxy, absolute pixels; may reach out of the image. One without width or
            height, or with a number that is not finite, gets an empty mask.
        image_size: (height, width) of the image.
        threshold: From which probability on a pixel is part of the object (one of probability 0 never is);
            below 0 the probabilities themselves are wanted.

    Returns:
        ``BoolTensor[N, H, W]``; for a negative threshold uint8 of probability * 255.

    Raises:
        ValueError: Shapes do not match.
    """
    height, width = image_size
    _check(masks, boxes, height, width)
    kind = torch.bool if threshold >= 0 else torch.uint8
    pasted = torch.zeros(len(masks), height, width, dtype=kind, device=masks.device)
    if pasted.numel() == 0 or masks.numel() == 0:
        return pasted
    least = max(threshold, _LEAST)
    if masks.device.type != "cpu":
        limit = least if kind == torch.bool else -1.0
        _paste_chunks(masks.detach().float(), boxes.detach().float(), pasted, limit)
        return pasted
    for canvas, (top, left, sampled) in zip(pasted.numpy(), _regions(masks, boxes, image_size), strict=True):
        region = canvas[top : top + sampled.shape[0], left : left + sampled.shape[1]]
        if kind == torch.bool:
            np.greater_equal(sampled, least, out=region)
        else:
            region[:] = sampled * 255
    return pasted


def paste_run_lengths(
    masks: Tensor, boxes: Tensor, image_size: tuple[int, int], threshold: float = 0.5
) -> list[dict[str, Any]]:
    """The masks of :func:`paste_masks` as COCO's run lengths, without an image of any of them.

    On the CPU, where the masks are brought first: for results that are written or measured, not drawn.

    Args:
        masks: ``Tensor[N, h, w]``, probabilities.
        boxes: ``Tensor[N, 4]`` xyxy, absolute pixels.
        image_size: (height, width) of the image.
        threshold: From which probability on a pixel is part of the object, 0 to 1.

    Returns:
        For each mask ``size`` (``[H, W]``) and ``counts``, text.

    Raises:
        ValueError: Shapes do not match, or the threshold is negative.
    """
    _check(masks, boxes, *image_size)
    if threshold < 0:
        raise ValueError(f"run lengths hold no probabilities: threshold must be 0 or more, got {threshold}")
    return [
        encode_mask(sampled >= max(threshold, _LEAST), (top, left), image_size)
        for top, left, sampled in _regions(masks, boxes, image_size)
    ]


def _check(masks: Tensor, boxes: Tensor, height: int, width: int) -> None:
    if masks.dim() != 3:
        raise ValueError(f"masks must be [N, h, w], got shape {tuple(masks.shape)}")
    if boxes.shape != (len(masks), 4):
        raise ValueError(f"boxes must be [{len(masks)}, 4], one a mask, got shape {tuple(boxes.shape)}")
    if masks.device != boxes.device:
        raise ValueError(f"masks are on {masks.device}, boxes on {boxes.device}")
    if height < 0 or width < 0:
        raise ValueError(f"image_size is (height, width) in pixels, got {(height, width)}")


def _regions(
    masks: Tensor, boxes: Tensor, image_size: tuple[int, int]
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Top and left of the part of the image that each mask reaches, and float32 (h, w) of its pixels.

    Box by box: sampling on a grid along the axes is one matrix from the left and one from the right.
    """
    height, width = image_size
    values, corners = masks.detach().float().cpu().numpy(), boxes.detach().double().cpu().tolist()
    for mask, (x1, y1, x2, y2) in zip(values, corners, strict=True):
        top, down = _weights(y1, y2, mask.shape[0], height)
        left, across = _weights(x1, x2, mask.shape[1], width)
        # In float32, whatever precision torch's own products are set to.
        yield top, left, product(product(down, mask), across.T)


def _weights(low: float, high: float, cells: int, size: int) -> tuple[int, np.ndarray]:
    """Share of each of a mask's cells in each pixel along one axis.

    Args:
        low: Where the box begins, in pixels; it ends at ``high``.
        cells: Of the mask along this axis.
        size: Of the image along this axis, in pixels.

    Returns:
        The first pixel that the mask reaches, and float32 ``(pixels, cells)``; no pixel where there is none.
    """
    side = high - low
    if not (np.isfinite(side) and side > 0 and cells):
        return 0, np.zeros((0, cells), np.float32)
    reach = side / cells / 2
    # Borders first to the image: numbers far beyond it are no indices.
    first, last = np.clip([np.floor(low - reach), np.ceil(high + reach)], 0, size).astype(int)
    centres = (np.arange(first, last) + 0.5 - low) / side * cells - 0.5
    weights = 1 - np.abs(centres[:, None] - np.arange(cells))
    return int(first), np.maximum(weights, 0, dtype=np.float64).astype(np.float32)


def _paste_chunks(masks: Tensor, boxes: Tensor, pasted: Tensor, threshold: float) -> None:
    """Whole images, as many at a time as the memory allows: nothing here waits for the device."""
    height, width = pasted.shape[1:]
    at_once = max(DEVICE_BYTES // (height * width * 12), 1)  # two coordinates and the value of each pixel
    for start in range(0, len(masks), at_once):
        rows = slice(start, start + at_once)
        x1, y1, x2, y2 = boxes[rows].unbind(1)
        across, down = _positions(x1, x2, width), _positions(y1, y2, height)
        grid = torch.stack(
            [across[:, None].expand(-1, height, -1), down[:, :, None].expand(-1, -1, width)], dim=3
        )
        sampled = torch.nn.functional.grid_sample(masks[rows, None], grid, align_corners=False)[:, 0]
        pasted[rows] = sampled >= threshold if threshold >= 0 else (sampled * 255).to(torch.uint8)


def _positions(low: Tensor, high: Tensor, size: int) -> Tensor:
    """Pixels' centres, -1 to 1 within each box: ``Tensor[N, size]``; outside it where the box is empty."""
    centres = torch.arange(size, device=low.device, dtype=low.dtype) + 0.5
    side = (high - low)[:, None]
    placed = (centres - low[:, None]) / side * 2 - 1
    return torch.where((side > 0) & side.isfinite(), placed, -10.0)
