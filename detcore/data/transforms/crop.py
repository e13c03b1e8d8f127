"""Random crops."""

from __future__ import annotations

import numpy as np

from detcore.data.transforms.base import BaseTransform, Results, keep_instances, record_homography
from detcore.data.transforms.geometry import clip_boxes
from detcore.data.transforms.proposals import keep_proposals

TYPES = ("absolute", "absolute_range", "relative", "relative_range")


class RandomCrop(BaseTransform):
    """Cut a random window out of image, boxes, masks and label map.

    Args:
        crop_size: ``'absolute'``: (width, height) in pixels; ``'absolute_range'``: (smallest, largest) side
            in pixels; ``'relative'``: (width, height) as parts of the image's; ``'relative_range'``: the
            least such parts.
        crop_type: How ``crop_size`` is read.
        allow_negative_crop: Accept a window without any box; else the sample is refused and the data set
            draws another.
        recompute_bbox: Set the boxes anew around the cropped masks.
        bbox_clip_border: Clip boxes to the window.
    """

    carries_proposals = True

    def __init__(
        self,
        crop_size: tuple[float, float],
        crop_type: str = "absolute",
        allow_negative_crop: bool = False,
        recompute_bbox: bool = False,
        bbox_clip_border: bool = True,
    ) -> None:
        if crop_type not in TYPES:
            raise ValueError(f"crop_type={crop_type!r}, expected one of {', '.join(TYPES)}")
        first, second = crop_size
        if crop_type.startswith("absolute"):
            if not (isinstance(first, int) and isinstance(second, int) and first > 0 and second > 0):
                raise ValueError(
                    f"crop_size={crop_size}: '{crop_type}' takes two positive whole numbers of pixels"
                )
            if crop_type == "absolute_range" and first > second:
                raise ValueError(f"crop_size={crop_size}: 'absolute_range' takes (smallest, largest)")
        elif not (0 < first <= 1 and 0 < second <= 1):
            raise ValueError(f"crop_size={crop_size}: '{crop_type}' takes two parts in (0, 1]")
        self.crop_size, self.crop_type = (first, second), crop_type
        self.allow_negative_crop, self.recompute_bbox = allow_negative_crop, recompute_bbox
        self.bbox_clip_border = bbox_clip_border

    def transform(self, results: Results) -> Results | None:
        """Draw a window and cut; None where it holds no box and that is not allowed."""
        height, width = results["img"].shape[:2]
        crop_h, crop_w = self._window_size(height, width)
        top = int(np.random.randint(0, max(height - crop_h, 0) + 1))
        left = int(np.random.randint(0, max(width - crop_w, 0) + 1))
        return self.crop(results, left, top, min(left + crop_w, width), min(top + crop_h, height))

    def _window_size(self, height: int, width: int) -> tuple[int, int]:
        first, second = self.crop_size
        if self.crop_type == "absolute":
            return min(int(second), height), min(int(first), width)
        if self.crop_type == "absolute_range":
            low, high = int(first), int(second)
            crop_h = np.random.randint(min(height, low), min(height, high) + 1)
            crop_w = np.random.randint(min(width, low), min(width, high) + 1)
            return int(crop_h), int(crop_w)
        if self.crop_type == "relative_range":
            first, second = (part + np.random.rand() * (1 - part) for part in self.crop_size)
        return max(int(height * second + 0.5), 1), max(int(width * first + 0.5), 1)

    def crop(self, results: Results, x1: int, y1: int, x2: int, y2: int) -> Results | None:
        """Cut the window ``x1:x2, y1:y2`` (pixels); None where no box is left and that is not allowed."""
        shape = (y2 - y1, x2 - x1)
        if results.get("gt_bboxes") is not None:
            boxes, keep = self._cut(results["gt_bboxes"], x1, y1, shape)
            if not keep.any() and not self.allow_negative_crop:
                return None
            results["gt_bboxes"] = boxes
            keep_instances(results, keep)
        if results.get("proposals") is not None:
            results["proposals"], keep = self._cut(results["proposals"], x1, y1, shape)
            keep_proposals(results, keep)
        results["img"] = results["img"][y1:y2, x1:x2]
        results["img_shape"] = shape
        if results.get("gt_masks") is not None:
            results["gt_masks"] = results["gt_masks"].crop(np.array([x1, y1, x2, y2]))
            if self.recompute_bbox:
                results["gt_bboxes"] = np.asarray(results["gt_masks"].get_bboxes(), np.float32).reshape(-1, 4)
        if results.get("gt_seg_map") is not None:
            results["gt_seg_map"] = results["gt_seg_map"][y1:y2, x1:x2]
        record_homography(results, np.array([[1, 0, -x1], [0, 1, -y1], [0, 0, 1]]))
        return results

    def _cut(
        self, boxes: np.ndarray, x1: int, y1: int, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Boxes in a window of ``shape`` (h, w) at (x1, y1), and bool (N,): which of them reach into it."""
        boxes = boxes - np.array([x1, y1, x1, y1], np.float32)
        if self.bbox_clip_border:
            boxes = clip_boxes(boxes, shape)
        keep: np.ndarray = np.all(boxes[:, :2] < shape[::-1], axis=1) & np.all(boxes[:, 2:] > 0, axis=1)
        return boxes, keep

    def __repr__(self) -> str:
        return f"RandomCrop(crop_size={self.crop_size}, crop_type={self.crop_type!r})"
