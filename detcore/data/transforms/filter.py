"""Leaves out instances that became too small."""

from __future__ import annotations

import numpy as np

from detcore.data.transforms.base import BaseTransform, Results, keep_instances


class FilterAnnotations(BaseTransform):
    """Drop instances with small boxes or masks.

    Args:
        min_gt_bbox_wh: Boxes must be wider and higher than this, in pixels.
        min_gt_mask_area: Masks must have at least this area, in square pixels.
        by_box: Look at boxes.
        by_mask: Look at masks.
        keep_empty: As in the manual, true *refuses* a sample without any instance left (the data set draws
            another), false passes it on.
    """

    carries_proposals = True

    def __init__(
        self,
        min_gt_bbox_wh: tuple[float, float] = (1, 1),
        min_gt_mask_area: float = 1,
        by_box: bool = True,
        by_mask: bool = False,
        keep_empty: bool = True,
    ) -> None:
        if not (by_box or by_mask):
            raise ValueError("by_box and by_mask are both off, there is nothing to filter by")
        self.min_gt_bbox_wh, self.min_gt_mask_area = tuple(min_gt_bbox_wh), min_gt_mask_area
        self.by_box, self.by_mask, self.keep_empty = by_box, by_mask, keep_empty

    def transform(self, results: Results) -> Results | None:
        """Drop instances from every field."""
        boxes = results["gt_bboxes"]
        if not len(boxes):
            return results
        keep = np.ones(len(boxes), bool)
        if self.by_box:
            sides = boxes[:, 2:] - boxes[:, :2]
            keep &= (sides > np.asarray(self.min_gt_bbox_wh, np.float32)).all(1)
        if self.by_mask:
            keep &= np.asarray(results["gt_masks"].areas) >= self.min_gt_mask_area
        if not keep.any() and self.keep_empty:
            return None
        keep_instances(results, keep)
        return results

    def __repr__(self) -> str:
        chosen = f"by_box={self.by_box}, by_mask={self.by_mask}"
        return f"FilterAnnotations(min_gt_bbox_wh={self.min_gt_bbox_wh}, {chosen})"
