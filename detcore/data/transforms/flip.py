"""Mirroring."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from detcore.data.transforms.base import BaseTransform, Results, record_homography

# What cv2.flip calls the directions.
CODES = {"horizontal": 1, "vertical": 0, "diagonal": -1}


class RandomFlip(BaseTransform):
    """Mirror image, boxes, masks and label map with a probability.

    Sets ``flip`` (bool) and ``flip_direction`` (None where nothing is mirrored).

    Args:
        prob: Probability of mirroring; with a list of directions it is shared equally among them, and a list
            gives each direction its own.
        direction: ``'horizontal'``, ``'vertical'``, ``'diagonal'`` (both), or a list of them.
        swap_seg_labels: Pairs of labels of the label map that change places in a mirrored image, such as
            those of the left and the right arm.
    """

    carries_proposals = True

    def __init__(
        self,
        prob: float | Sequence[float] | None = None,
        direction: str | Sequence[str] = "horizontal",
        swap_seg_labels: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self.directions = [direction] if isinstance(direction, str) else list(direction)
        unknown = [name for name in self.directions if name not in CODES]
        if unknown or not self.directions:
            raise ValueError(f"direction={direction!r}, expected one or several of {', '.join(CODES)}")
        if prob is None:
            raise ValueError("prob is missing: the probability of mirroring, for example 0.5")
        shared = isinstance(prob, (int, float))
        self.prob = [prob / len(self.directions)] * len(self.directions) if shared else list(prob)  # type: ignore[operator, arg-type]
        if len(self.prob) != len(self.directions) or min(self.prob) < 0 or sum(self.prob) > 1 + 1e-9:
            raise ValueError(
                f"prob={prob} does not fit the directions {self.directions}: one each, sum at most 1"
            )
        self.swap_seg_labels = [tuple(pair) for pair in swap_seg_labels or ()]
        if any(len(pair) != 2 for pair in self.swap_seg_labels):
            raise ValueError(f"swap_seg_labels needs pairs of labels, got {swap_seg_labels}")

    def transform(self, results: Results) -> Results:
        """Draw a direction, or none, and mirror."""
        drawn = np.random.random_sample()
        direction = None
        for name, prob in zip(self.directions, self.prob, strict=True):
            if drawn < prob:
                direction = name
                break
            drawn -= prob
        results["flip"], results["flip_direction"] = direction is not None, direction
        if direction is not None:
            self._flip(results, direction)
        return results

    def _flip(self, results: Results, direction: str) -> None:
        height, width = results["img"].shape[:2]
        results["img"] = flip_array(results["img"], direction)
        matrix = np.eye(3, dtype=np.float32)
        for axis, size, mirrored in ((0, width, "horizontal"), (1, height, "vertical")):
            if direction not in (mirrored, "diagonal"):
                continue
            matrix[axis, axis], matrix[axis, 2] = -1, size
            if results.get("gt_bboxes") is not None:
                results["gt_bboxes"] = _mirrored(results["gt_bboxes"], axis, size)
            if results.get("proposals") is not None:
                results["proposals"] = _mirrored(results["proposals"], axis, size)
        if results.get("gt_masks") is not None:
            results["gt_masks"] = results["gt_masks"].flip(direction)
        if results.get("gt_seg_map") is not None:
            before = flip_array(results["gt_seg_map"], direction)
            results["gt_seg_map"] = after = before.copy() if self.swap_seg_labels else before
            for left, right in self.swap_seg_labels:
                after[before == left], after[before == right] = right, left
        record_homography(results, matrix)

    def __repr__(self) -> str:
        return f"RandomFlip(prob={self.prob}, direction={self.directions})"


def _mirrored(boxes: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Boxes (N, 4) xyxy mirrored along x (axis 0) or y (1) in an image of ``size`` pixels along it."""
    mirrored = boxes.copy()
    mirrored[:, axis], mirrored[:, axis + 2] = size - boxes[:, axis + 2], size - boxes[:, axis]
    return mirrored


def flip_array(img: np.ndarray, direction: str) -> np.ndarray:
    """Mirror an image (H, W[, C]) into a new contiguous array."""
    flipped: np.ndarray = cv2.flip(img, CODES[direction])
    return flipped[..., None] if flipped.ndim < img.ndim else flipped
