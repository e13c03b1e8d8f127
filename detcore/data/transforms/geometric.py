"""Rotation, shear and translation (AutoAugment, Cubuk et al. 2019, table 6)."""

from __future__ import annotations

from typing import ClassVar, cast, get_args

import cv2
import numpy as np

from detcore.data.transforms.base import BaseTransform, Results, record_homography
from detcore.data.transforms.fill import Fill, checked_fill, fill_of
from detcore.data.transforms.geometry import INTERPOLATIONS, warp_array
from detcore.data.transforms.magnitude import Magnitude
from detcore.data.transforms.proposals import map_proposals
from detcore.structures.bbox import bbox_project
from detcore.structures.mask.base import Interpolation


class GeomTransform(BaseTransform):
    """Base of the transforms below; by itself it moves nothing, as one choice among several.

    Image, boxes, masks, label map and proposals move together; the image keeps its size. Boxes become the
    smallest ones around the moved corners and are clipped to the image; one that has left it stays, without
    width or height, until `FilterAnnotations` drops it.

    Derived classes implement `matrix`, and may narrow `limits`.

    Args:
        prob: Probability of applying it.
        level: Strength from 0 (``min_mag``) to 10 (``max_mag``); drawn for each sample where None.
        min_mag: Smallest magnitude.
        max_mag: Largest magnitude.
        reversal_prob: Probability of the positive direction, which is down, to the right or clockwise; the
            magnitude is taken negative otherwise.
        img_border_value: Value of new image pixels, from 0 to 255; a number or one a channel.
        mask_border_value: Value of new pixels of bitmap masks; must be 0 for polygons.
        seg_ignore_label: Value of new pixels of the label map.
        interpolation: ``'nearest'``, ``'bilinear'``, ``'bicubic'``, ``'area'`` or ``'lanczos'``; the label
            map always takes the nearest.

    Attributes:
        limits: Smallest and largest magnitude that have a meaning.
    """

    carries_proposals = True
    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __init__(
        self,
        prob: float = 1.0,
        level: int | None = None,
        min_mag: float = 0.0,
        max_mag: float = 1.0,
        reversal_prob: float = 0.5,
        img_border_value: Fill = 128,
        mask_border_value: int = 0,
        seg_ignore_label: int = 255,
        interpolation: str = "bilinear",
    ) -> None:
        name = type(self).__name__
        self.magnitude = Magnitude(name, prob, level, min_mag, max_mag, self.limits)
        if not 0 <= reversal_prob <= 1:
            raise ValueError(f"{name}: reversal_prob must lie in [0, 1], got {reversal_prob}")
        if interpolation not in get_args(Interpolation):
            raise ValueError(
                f"{name}: interpolation={interpolation!r}, expected one of {', '.join(INTERPOLATIONS)}"
            )
        self.reversal_prob = reversal_prob
        self.img_border_value = checked_fill(img_border_value, f"{name}: img_border_value")
        self.mask_border_value, self.seg_ignore_label = mask_border_value, seg_ignore_label
        self.interpolation = cast(Interpolation, interpolation)

    def matrix(self, mag: float, height: int, width: int) -> np.ndarray:
        """float64 (3, 3): where a pixel (x, y, 1) of an image of this size goes."""
        return np.eye(3)

    def transform(self, results: Results) -> Results:
        """Draw a magnitude and a direction, and move everything in the sample."""
        mag = self.magnitude.drawn()
        if mag is None:
            return results
        mag = -mag if np.random.rand() >= self.reversal_prob else mag
        matrix = self._get_homography_matrix(results, mag)
        self._transform_img(results, mag)
        if results.get("gt_bboxes") is not None:
            self._transform_bboxes(results, mag)
        shape = results["img"].shape[:2]
        map_proposals(results, lambda boxes: bbox_project(boxes, matrix.astype(np.float32), shape))
        if results.get("gt_masks") is not None:
            self._transform_masks(results, mag)
        if results.get("gt_seg_map") is not None:
            self._transform_seg(results, mag)
        record_homography(results, matrix)
        return results

    # What follows bears the names that classes written for MMDetection override.

    def _get_homography_matrix(self, results: Results, mag: float) -> np.ndarray:
        return self.matrix(mag, *results["img"].shape[:2])

    def _transform_img(self, results: Results, mag: float) -> None:
        matrix = self._get_homography_matrix(results, mag)
        name = f"{type(self).__name__}: img_border_value"
        fill = fill_of(results["img"], self.img_border_value, name)
        results["img"] = warp_array(
            results["img"], matrix, results["img"].shape[:2], self.interpolation, fill
        )

    def _transform_bboxes(self, results: Results, mag: float) -> None:
        matrix = self._get_homography_matrix(results, mag).astype(np.float32)
        results["gt_bboxes"] = bbox_project(results["gt_bboxes"], matrix, results["img"].shape[:2])

    def _transform_masks(self, results: Results, mag: float) -> None:
        matrix = self._get_homography_matrix(results, mag)
        results["gt_masks"] = results["gt_masks"].warp(
            matrix[:2], results["img"].shape[:2], self.mask_border_value, self.interpolation
        )

    def _transform_seg(self, results: Results, mag: float) -> None:
        matrix = self._get_homography_matrix(results, mag)
        seg, ignore = results["gt_seg_map"], (float(self.seg_ignore_label),)
        results["gt_seg_map"] = warp_array(seg, matrix, seg.shape[:2], "nearest", ignore)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.magnitude!r}, reversal_prob={self.reversal_prob})"


class _ByAngle(GeomTransform):
    """Magnitudes are degrees; the arguments are those of `GeomTransform`."""

    limits = (0.0, 90.0)

    def __init__(
        self,
        prob: float = 1.0,
        level: int | None = None,
        min_mag: float = 0.0,
        max_mag: float = 30.0,
        reversal_prob: float = 0.5,
        img_border_value: Fill = 128,
        mask_border_value: int = 0,
        seg_ignore_label: int = 255,
        interpolation: str = "bilinear",
    ) -> None:
        super().__init__(
            prob, level, min_mag, max_mag, reversal_prob, img_border_value, mask_border_value,
            seg_ignore_label, interpolation,
        )  # fmt: skip


class _ByShare(GeomTransform):
    """Magnitudes are parts of the image's side; the arguments are those of `GeomTransform`."""

    def __init__(
        self,
        prob: float = 1.0,
        level: int | None = None,
        min_mag: float = 0.0,
        max_mag: float = 0.1,
        reversal_prob: float = 0.5,
        img_border_value: Fill = 128,
        mask_border_value: int = 0,
        seg_ignore_label: int = 255,
        interpolation: str = "bilinear",
    ) -> None:
        super().__init__(
            prob, level, min_mag, max_mag, reversal_prob, img_border_value, mask_border_value,
            seg_ignore_label, interpolation,
        )  # fmt: skip


class ShearX(_ByAngle):
    """Lean the picture to the side: its left edge stands at this angle, in degrees from upright."""

    def matrix(self, mag: float, height: int, width: int) -> np.ndarray:
        """Each row moves by its distance from the upper edge."""
        return np.array([[1, np.tan(np.deg2rad(mag)), 0], [0, 1, 0], [0, 0, 1]])


class ShearY(_ByAngle):
    """Lean the picture up or down: its upper edge runs at this angle, in degrees from level."""

    def matrix(self, mag: float, height: int, width: int) -> np.ndarray:
        """Each column moves by its distance from the left edge."""
        return np.array([[1, 0, 0], [np.tan(np.deg2rad(mag)), 1, 0], [0, 0, 1]])


class Rotate(_ByAngle):
    """Turn the picture about its middle, by degrees, clockwise where positive."""

    limits = (0.0, 180.0)

    def matrix(self, mag: float, height: int, width: int) -> np.ndarray:
        """The centre of the middle pixel stays."""
        turn = cv2.getRotationMatrix2D(((width - 1) * 0.5, (height - 1) * 0.5), -mag, 1.0)
        return np.concatenate([turn, [[0, 0, 1]]])


class TranslateX(_ByShare):
    """Move the picture to the right by a part of its width, in whole pixels."""

    def matrix(self, mag: float, height: int, width: int) -> np.ndarray:
        """Whole pixels, rounded towards none."""
        return np.array([[1, 0, int(width * mag)], [0, 1, 0], [0, 0, 1]], np.float64)


class TranslateY(_ByShare):
    """Move the picture down by a part of its height, in whole pixels."""

    def matrix(self, mag: float, height: int, width: int) -> np.ndarray:
        """Whole pixels, rounded towards none."""
        return np.array([[1, 0, 0], [0, 1, int(height * mag)], [0, 0, 1]], np.float64)
