"""A drawn rotation, scaling, shear and shift at once, as YOLOX puts it behind Mosaic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detcore.data.transforms.base import BaseTransform, Results, keep_instances, record_homography
from detcore.data.transforms.fill import Fill, checked_fill, fill_of
from detcore.data.transforms.geometry import warp_array
from detcore.data.transforms.proposals import map_proposals
from detcore.structures.bbox import bbox_project


class RandomAffine(BaseTransform):
    """Rotate, scale, shear and move an image and all that belongs to it.

    The map is ``shift @ shear @ rotation @ scaling``, about the upper left corner. Boxes become the smallest
    ones around the moved corners; those that have left the image are dropped with their labels and masks.

    Args:
        max_rotate_degree: Greatest rotation, in degrees, either way.
        max_translate_ratio: Greatest shift along each axis, in parts of the new image's side, either way.
        scaling_ratio_range: Range of the factor.
        max_shear_degree: Greatest shear along each axis, in degrees, either way.
        border: Pixels (width, height) that the image gains at each side; negative ones are lost. Mosaic
            doubles the sides, and minus half of its ``img_scale`` gives that size back.
        border_val: Value of new pixels, from 0 to 255; a number or one a channel.
        bbox_clip_border: Clip boxes to the image.

    Raises:
        ValueError: A limit or the range has no meaning.
    """

    carries_proposals = True

    def __init__(
        self,
        max_rotate_degree: float = 10.0,
        max_translate_ratio: float = 0.1,
        scaling_ratio_range: tuple[float, float] = (0.5, 1.5),
        max_shear_degree: float = 2.0,
        border: tuple[int, int] = (0, 0),
        border_val: Fill = (114, 114, 114),
        bbox_clip_border: bool = True,
    ) -> None:
        if not 0 <= max_translate_ratio <= 1:
            raise ValueError(f"RandomAffine: max_translate_ratio is in [0, 1], got {max_translate_ratio}")
        if max_rotate_degree < 0 or not 0 <= max_shear_degree < 90:
            raise ValueError(
                "RandomAffine: max_rotate_degree is not negative and max_shear_degree in [0, 90), got "
                f"{max_rotate_degree} and {max_shear_degree}"
            )
        low, high = scaling_ratio_range
        if not 0 < low <= high:
            raise ValueError(
                f"RandomAffine: scaling_ratio_range is two rising factors, got {tuple(scaling_ratio_range)}"
            )
        self.max_rotate_degree, self.max_translate_ratio = max_rotate_degree, max_translate_ratio
        self.scaling_ratio_range, self.max_shear_degree = (low, high), max_shear_degree
        self.border: Sequence[int] = tuple(border)
        self.border_val = checked_fill(border_val, "RandomAffine: border_val")
        self.bbox_clip_border = bbox_clip_border

    def transform(self, results: Results) -> Results:
        """Draw the map, and move everything in the sample.

        Raises:
            ValueError: The border takes the whole image away.
        """
        img = results["img"]
        height, width = img.shape[0] + 2 * self.border[1], img.shape[1] + 2 * self.border[0]
        if height < 1 or width < 1:
            raise ValueError(
                f"RandomAffine: border={self.border} (width, height) leaves nothing of an image of "
                f"{img.shape[1]} x {img.shape[0]} pixels"
            )
        matrix = self._get_random_homography_matrix(height, width)
        shape = (height, width)
        fill = fill_of(img, self.border_val, "RandomAffine: border_val")
        results["img"], results["img_shape"] = warp_array(img, matrix, shape, "bilinear", fill), shape
        if results.get("gt_masks") is not None:
            results["gt_masks"] = results["gt_masks"].warp(matrix[:2], shape)
        if results.get("gt_seg_map") is not None:
            results["gt_seg_map"] = warp_array(results["gt_seg_map"], matrix, shape, "nearest", (255.0,))
        matrix = matrix.astype(np.float32)
        limit = shape if self.bbox_clip_border else None
        if results.get("gt_bboxes") is not None:
            boxes = results["gt_bboxes"] = bbox_project(results["gt_bboxes"], matrix, limit)
            keep_instances(results, (boxes[:, :2] < (width, height)).all(1) & (boxes[:, 2:] > 0).all(1))
        map_proposals(results, lambda boxes: bbox_project(boxes, matrix, shape))
        record_homography(results, matrix)
        return results

    # Bears the name that classes written for MMDetection override.
    def _get_random_homography_matrix(self, height: int, width: int) -> np.ndarray:
        """float64 (3, 3): where a pixel (x, y, 1) goes on a new image of this size."""
        turn = np.deg2rad(np.random.uniform(-self.max_rotate_degree, self.max_rotate_degree))
        factor = np.random.uniform(*self.scaling_ratio_range)
        lean = np.tan(np.deg2rad(np.random.uniform(-self.max_shear_degree, self.max_shear_degree, 2)))
        shift = np.random.uniform(-self.max_translate_ratio, self.max_translate_ratio, 2) * (width, height)
        cos, sin = np.cos(turn), np.sin(turn)
        matrix = np.eye(3)
        matrix[:2, :2] = np.array([[1, lean[0]], [lean[1], 1]]) @ np.array([[cos, -sin], [sin, cos]]) * factor
        matrix[:2, 2] = shift
        return matrix

    def __repr__(self) -> str:
        limits = ("max_rotate_degree", "max_translate_ratio", "scaling_ratio_range", "max_shear_degree")
        shown = ", ".join(f"{name}={getattr(self, name)}" for name in (*limits, "border"))
        return f"RandomAffine({shown})"
