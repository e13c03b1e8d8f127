"""Moving the picture: onto a larger canvas, or by a few pixels."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from detcore.data.transforms.base import BaseTransform, Results, keep_instances, record_homography
from detcore.data.transforms.fill import Fill, checked_fill, fill_of
from detcore.data.transforms.geometry import clip_boxes, warp_array
from detcore.data.transforms.proposals import keep_proposals, map_proposals


class Expand(BaseTransform):
    """Put the picture at a random place of a larger canvas (SSD, Liu et al. 2016, section 3.6).

    Args:
        mean: Value of the canvas, a number or one a channel (0 to 255).
        to_rgb: Whether ``mean`` is in the order R, G, B; it is turned round to fit the image's B, G, R.
        ratio_range: Smallest and largest ratio of the canvas's sides to the picture's, at least 1.
        seg_ignore_label: Value of the label map's canvas; needed where there is a label map.
        prob: Probability of applying it.
    """

    carries_proposals = True

    def __init__(
        self,
        mean: Fill = (0, 0, 0),
        to_rgb: bool = True,
        ratio_range: tuple[float, float] = (1, 4),
        seg_ignore_label: int | None = None,
        prob: float = 0.5,
    ) -> None:
        low, high = ratio_range
        if not 1 <= low <= high:
            raise ValueError(f"ratio_range must be 1 <= smallest <= largest, got {tuple(ratio_range)}")
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must lie in [0, 1], got {prob}")
        values = checked_fill(mean, "mean")
        self.mean = values[::-1] if to_rgb else values
        self.ratio_range, self.seg_ignore_label, self.prob = (low, high), seg_ignore_label, prob

    def transform(self, results: Results) -> Results:
        """Draw a canvas and a place, and move everything in the sample there.

        Raises:
            ValueError: There is a label map, but no ``seg_ignore_label``.
        """
        if np.random.rand() >= self.prob:
            return results
        height, width = results["img"].shape[:2]
        ratio = np.random.uniform(*self.ratio_range)
        shape = int(height * ratio), int(width * ratio)
        left, top = (int(np.random.uniform(0, side * ratio - side)) for side in (width, height))
        seg, ignore = results.get("gt_seg_map"), self.seg_ignore_label
        if seg is not None and ignore is None:
            raise ValueError("Expand: the sample has a label map, give seg_ignore_label (for example 255)")
        fill = fill_of(results["img"], self.mean, "Expand: mean")
        results["img"] = on_canvas(results["img"], shape, left, top, fill)
        results["img_shape"] = shape
        shift = np.array([left, top, left, top], np.float32)
        if results.get("gt_bboxes") is not None:
            results["gt_bboxes"] = results["gt_bboxes"] + shift
        map_proposals(results, lambda boxes: boxes + shift)
        if results.get("gt_masks") is not None:
            results["gt_masks"] = results["gt_masks"].expand(*shape, top, left)
        if seg is not None and ignore is not None:
            results["gt_seg_map"] = on_canvas(seg, shape, left, top, (ignore,))
        record_homography(results, np.array([[1, 0, left], [0, 1, top], [0, 0, 1]]))
        return results

    def __repr__(self) -> str:
        return f"Expand(mean={self.mean} (B, G, R), ratio_range={self.ratio_range}, prob={self.prob})"


class RandomShift(BaseTransform):
    """Move the picture by a few pixels, with everything in it; what is uncovered is black (0).

    Label maps get 255 there. A sample of which no object would be left stays where it is.

    Args:
        prob: Probability of moving.
        max_shift_px: Largest distance along either side, in pixels.
        filter_thr_px: Objects are kept where what is left of the box is wider and higher than this.
    """

    carries_proposals = True

    def __init__(self, prob: float = 0.5, max_shift_px: int = 32, filter_thr_px: int = 1) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must lie in [0, 1], got {prob}")
        if not isinstance(max_shift_px, int) or max_shift_px < 0:
            raise ValueError(f"max_shift_px must be a whole number from 0 on, got {max_shift_px!r}")
        self.prob, self.max_shift_px, self.filter_thr_px = prob, max_shift_px, filter_thr_px

    def transform(self, results: Results) -> Results:
        """Draw a distance and move everything in the sample."""
        if np.random.rand() >= self.prob:
            return results
        right, down = np.random.randint(-self.max_shift_px, self.max_shift_px + 1, 2).tolist()
        img = results["img"]
        shape = img.shape[:2]
        if results.get("gt_bboxes") is not None:
            boxes, keep = self._moved(results["gt_bboxes"], right, down, shape)
            if not keep.any():
                return results
            results["gt_bboxes"] = boxes
            keep_instances(results, keep)
        if results.get("proposals") is not None:
            results["proposals"], keep = self._moved(results["proposals"], right, down, shape)
            keep_proposals(results, keep)
        matrix = np.array([[1, 0, right], [0, 1, down], [0, 0, 1]], np.float64)
        results["img"] = warp_array(img, matrix, shape, "nearest", fill_of(img, (0.0,), "RandomShift"))
        if results.get("gt_masks") is not None:
            results["gt_masks"] = results["gt_masks"].warp(matrix[:2], shape, 0, "nearest")
        if results.get("gt_seg_map") is not None:
            results["gt_seg_map"] = warp_array(results["gt_seg_map"], matrix, shape, "nearest", (255.0,))
        record_homography(results, matrix)
        return results

    def _moved(
        self, boxes: np.ndarray, right: int, down: int, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Boxes after the move, clipped to the image, and bool (N,): which are large enough."""
        moved = clip_boxes(boxes + np.array([right, down, right, down], np.float32), shape)
        return moved, (moved[:, 2:] - moved[:, :2] > self.filter_thr_px).all(1)

    def __repr__(self) -> str:
        return f"RandomShift(prob={self.prob}, max_shift_px={self.max_shift_px})"


def on_canvas(
    img: np.ndarray, shape: tuple[int, int], left: int, top: int, fill: Sequence[float]
) -> np.ndarray:
    """An image (H, W[, C]) with its upper left corner at (left, top) of a canvas of ``shape`` (h, w)."""
    height, width = img.shape[:2]
    below, right = shape[0] - height - top, shape[1] - width - left
    placed: np.ndarray = cv2.copyMakeBorder(
        img, top, below, left, right, cv2.BORDER_CONSTANT, value=tuple(fill)
    )
    return placed.reshape(*shape, *img.shape[2:])
