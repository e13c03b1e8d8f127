"""Objects of another image, pasted onto this one (Ghiasi et al. 2021, arXiv 2012.07177)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from detcore.data.transforms.base import BaseTransform, Results, keep_instances
from detcore.data.transforms.mixing import further_samples
from detcore.errors import DataError
from detcore.structures.mask import BitmapMasks

PER_OBJECT = ("gt_bboxes", "gt_bboxes_labels", "gt_ignore_flags")


class CopyPaste(BaseTransform):
    """Paste objects of a second image over the first, each where it is, by its mask.

    Both images must have one size: resize, crop and pad before, in the inner pipeline of a
    `MultiImageMixDataset`. What the pasted objects cover is taken from the masks of the first image's
    objects, and their boxes are set anew around what is left. An object stays where its box is as before but
    for ``bbox_occluded_thr``, or where enough of its mask is left; one that had no mask (its instance is
    ignored) stays as it is, and such a one is not pasted.

    Masks come out as bitmaps. A second image without objects, or none of them drawn, changes nothing.

    Args:
        max_num_pasted: Largest number of objects that are pasted.
        bbox_occluded_thr: Objects stay where no side of the box has moved by more, in pixels.
        mask_occluded_thr: Objects stay where more than so many pixels of the mask are left.
        selected: Draw which objects are pasted, and how many; else all are.
        paste_by_box: Where there are no masks, take the whole boxes as masks. Masks that are there count.
    """

    def __init__(
        self,
        max_num_pasted: int = 100,
        bbox_occluded_thr: int = 10,
        mask_occluded_thr: int = 300,
        selected: bool = True,
        paste_by_box: bool = False,
    ) -> None:
        if max_num_pasted < 1:
            raise ValueError(f"max_num_pasted must be at least 1, got {max_num_pasted}")
        if bbox_occluded_thr < 0 or mask_occluded_thr < 0:
            raise ValueError(
                "bbox_occluded_thr and mask_occluded_thr must not be negative, got "
                f"{bbox_occluded_thr} and {mask_occluded_thr}"
            )
        self.max_num_pasted, self.selected, self.paste_by_box = max_num_pasted, selected, paste_by_box
        self.bbox_occluded_thr, self.mask_occluded_thr = bbox_occluded_thr, mask_occluded_thr

    def get_indexes(self, dataset: Any) -> int:
        """The sample whose objects are pasted."""
        return int(np.random.randint(0, len(dataset)))

    def transform(self, results: Results) -> Results:
        """Paste.

        Raises:
            DataError: There is not one more image, it has another size, or there are no masks.
        """
        (other,) = further_samples(self, results, 1)
        if results["img"].shape != other["img"].shape or results["img"].dtype != other["img"].dtype:
            raise DataError(
                "CopyPaste needs two images of one size and type, got "
                f"{results['img'].shape} {results['img'].dtype} and {other['img'].shape} "
                f"{other['img'].dtype}: crop and pad them before (RandomCrop, then Pad)"
            )
        pasted = self._masks(other)
        chosen = self._chosen(len(other["gt_bboxes"]))
        chosen = chosen[pasted[chosen].any((1, 2))]
        if not len(chosen):
            return results
        pasted = pasted[chosen]
        covered = pasted.any(0)
        self._cover(results, covered)
        for key in PER_OBJECT:
            if results.get(key) is not None:
                results[key] = np.concatenate([results[key], other[key][chosen]])
        results["gt_masks"] = BitmapMasks(np.concatenate([results["gt_masks"].masks, pasted]), *covered.shape)
        img = results["img"] = results["img"].copy()
        img[covered] = other["img"][covered]
        results.pop("homography_matrix", None)  # no single one leads from the original images to this
        return results

    def _chosen(self, count: int) -> np.ndarray:
        """int64 (K,): which of so many objects are pasted, in the order in which they are appended."""
        if not self.selected:
            return np.arange(count)
        number = np.random.randint(0, min(count, self.max_num_pasted) + 1)
        return np.random.choice(count, number, replace=False)

    def _masks(self, sample: Mapping[str, Any]) -> np.ndarray:
        """uint8 (N, H, W) of 0 and 1."""
        if sample.get("gt_masks") is not None:
            masks: np.ndarray = sample["gt_masks"].to_ndarray()
            return masks
        if not self.paste_by_box:
            raise DataError(
                f"CopyPaste: {sample.get('img_path')} has no masks; load them (with_mask=True), or paste "
                "whole boxes with paste_by_box=True"
            )
        masks = np.zeros((len(sample["gt_bboxes"]), *sample["img"].shape[:2]), np.uint8)
        corners = np.maximum(sample["gt_bboxes"], 0).astype(np.int64).tolist()
        for mask, (x1, y1, x2, y2) in zip(masks, corners, strict=True):
            mask[y1:y2, x1:x2] = 1
        return masks

    def _cover(self, results: Results, covered: np.ndarray) -> None:
        """Take covered pixels, bool (H, W), from a sample's objects, and drop what is covered too far."""
        before, boxes = self._masks(results), results["gt_bboxes"]
        left = BitmapMasks(before & ~covered, *covered.shape)
        around = left.get_bboxes()
        near = (np.abs(around - boxes) <= self.bbox_occluded_thr).all(1)
        # Nothing is known of what is covered of an object that had no mask.
        unknown: np.ndarray = ~np.any(before, axis=(1, 2))
        results["gt_masks"] = left
        results["gt_bboxes"] = np.where(unknown[:, None], boxes, around)
        keep_instances(results, near | (left.areas > self.mask_occluded_thr) | unknown)

    def __repr__(self) -> str:
        return (
            f"CopyPaste(max_num_pasted={self.max_num_pasted}, bbox_occluded_thr={self.bbox_occluded_thr}, "
            f"mask_occluded_thr={self.mask_occluded_thr}, selected={self.selected}, "
            f"paste_by_box={self.paste_by_box})"
        )
