"""Crops that keep enough of every object (SSD, Liu et al. 2016, section 2.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from detcore.data.transforms.base import BaseTransform, Results, keep_instances
from detcore.data.transforms.crop import RandomCrop
from detcore.structures.bbox import bbox_overlaps

TRIES = 50


class MinIoURandomCrop(BaseTransform):
    """Cut out a random window that has at least a drawn IoU with every object.

    For each sample one of ``min_ious`` is drawn, or 0 (any window), or that it stays whole. Windows have an
    aspect ratio between 1/2 and 2. Objects whose centre is outside are dropped; at least one stays. Where 50
    windows do not fit, it is drawn anew what to look for.

    Args:
        min_ious: Least IoUs to draw from.
        min_crop_size: Least side of a window as a part of the image's.
        bbox_clip_border: Clip boxes to the window.
    """

    carries_proposals = True

    def __init__(
        self,
        min_ious: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
        min_crop_size: float = 0.3,
        bbox_clip_border: bool = True,
    ) -> None:
        if not all(0 <= each <= 1 for each in min_ious):
            raise ValueError(f"min_ious must lie in [0, 1], got {tuple(min_ious)}")
        if not 0 < min_crop_size <= 1:
            raise ValueError(f"min_crop_size must lie in (0, 1], got {min_crop_size}")
        self.min_ious, self.min_crop_size = tuple(min_ious), min_crop_size
        self.cut = RandomCrop((1, 1), allow_negative_crop=True, bbox_clip_border=bbox_clip_border)

    def transform(self, results: Results) -> Results | None:
        """Draw a window and cut, or leave the sample whole."""
        boxes = results.get("gt_bboxes")
        boxes = np.zeros((0, 4), np.float32) if boxes is None else boxes
        choices = (*self.min_ious, 0.0)
        while True:
            drawn = np.random.randint(0, len(choices) + 1)
            if drawn == len(choices):
                return results
            windows = self._windows(*results["img"].shape[:2])
            fits = _fits(windows, boxes, choices[drawn])
            if not fits.any():
                continue
            window = windows[fits.argmax()]
            if results.get("gt_bboxes") is not None:
                keep_instances(results, _centred(window[None], boxes)[0])
            return self.cut.crop(results, *window.tolist())

    def _windows(self, height: int, width: int) -> np.ndarray:
        """int64 (50, 4) xyxy: windows of random size and place."""
        across = np.random.uniform(self.min_crop_size * width, width, TRIES)
        down = np.random.uniform(self.min_crop_size * height, height, TRIES)
        left, top = np.random.uniform(0, width - across), np.random.uniform(0, height - down)
        windows: np.ndarray = np.stack([left, top, left + across, top + down], 1).astype(np.int64)
        return windows

    def __repr__(self) -> str:
        return f"MinIoURandomCrop(min_ious={self.min_ious}, min_crop_size={self.min_crop_size})"


def _fits(windows: np.ndarray, boxes: np.ndarray, min_iou: float) -> np.ndarray:
    """bool (K,): which windows (K, 4) have the right shape, and enough of all boxes (N, 4)."""
    across, down = windows[:, 2] - windows[:, 0], windows[:, 3] - windows[:, 1]
    fits: np.ndarray = (across > 0) & (down > 0) & (across <= 2 * down) & (down <= 2 * across)
    if len(boxes):
        overlaps = bbox_overlaps(torch.from_numpy(windows).float(), torch.from_numpy(boxes)).numpy()
        fits &= (overlaps >= min_iou).all(1) & _centred(windows, boxes).any(1)
    return fits


def _centred(windows: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """bool (K, N): which boxes (N, 4) have their centre within which windows (K, 4)."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    within: np.ndarray = np.all(
        (centres > windows[:, None, :2]) & (centres < windows[:, None, 2:]), axis=2
    )
    return within
