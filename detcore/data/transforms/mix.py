"""Several images in one: Mosaic and MixUp, for the pipeline of a `MultiImageMixDataset`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detcore.data.transforms.base import BaseTransform, Results, keep_instances
from detcore.data.transforms.flip import flip_array
from detcore.data.transforms.geometry import clip_boxes, resize_array
from detcore.data.transforms.resize import as_scale
from detcore.errors import DataError

Instances = dict[str, Any]


class Mosaic(BaseTransform):
    """Four images around a common corner (Bochkovskiy et al. 2020, arXiv 2004.10934, section 3.3).

    Each image is fitted into ``img_scale``. The canvas is twice as wide and high; the corner lies near its
    middle, and what reaches beyond the canvas is cut off.

    Args:
        img_scale: (width, height) in pixels that an image is fitted into.
        center_ratio_range: The corner lies at so many widths and heights of ``img_scale``, drawn separately.
        bbox_clip_border: Clip boxes to the canvas.
        pad_val: Value of pixels that no image covers.
        prob: Probability of mixing at all.
    """

    def __init__(
        self,
        img_scale: tuple[int, int] = (640, 640),
        center_ratio_range: tuple[float, float] = (0.5, 1.5),
        bbox_clip_border: bool = True,
        pad_val: float = 114.0,
        prob: float = 1.0,
    ) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must lie in [0, 1], got {prob}")
        self.img_scale = as_scale(img_scale)
        self.center_ratio_range = _range("center_ratio_range", center_ratio_range, 0, 2)
        self.bbox_clip_border, self.pad_val, self.prob = bbox_clip_border, pad_val, prob

    def get_indexes(self, dataset: Any) -> list[int]:
        """Three samples, drawn anew for each mosaic."""
        return [int(np.random.randint(0, len(dataset))) for _ in range(3)]

    def transform(self, results: Results) -> Results:
        """Compose the mosaic.

        Raises:
            DataError: There are not three more images, or the sample has a label map.
        """
        if np.random.uniform(0, 1) > self.prob:
            return results
        samples = [results, *_others(self, results, 3)]
        width, height = self.img_scale
        center_x, center_y = (
            int(np.random.uniform(*self.center_ratio_range) * side) for side in (width, height)
        )
        shape = (2 * height, 2 * width)
        canvas = np.full((*shape, *results["img"].shape[2:]), self.pad_val, results["img"].dtype)
        parts = []
        for number, sample in enumerate(samples):
            scale = min(height / sample["img"].shape[0], width / sample["img"].shape[1])
            img = _scaled(sample["img"], scale)
            left = center_x - (0 if number % 2 else img.shape[1])
            top = center_y - (0 if number // 2 else img.shape[0])
            _paste(canvas, img, left, top)
            parts.append(_moved(sample, scale, (left, top), shape))
        return _mixed(results, canvas, parts, self.bbox_clip_border)

    def __repr__(self) -> str:
        return f"Mosaic(img_scale={self.img_scale}, pad_val={self.pad_val}, prob={self.prob})"


class MixUp(BaseTransform):
    """Half of the image and half of a second one (Zhang et al. 2018, arXiv 1710.09412, as YOLOX uses it).

    The second image is fitted into ``img_scale``, scaled by a drawn factor, mirrored or not, and cut or
    padded to the size of the first; both keep all their boxes.

    Args:
        img_scale: (width, height) in pixels that the second image is fitted into.
        ratio_range: Range of the factor.
        flip_ratio: Probability of mirroring the second image.
        pad_val: Value of pixels that the second image does not cover.
        max_iters: How many images are looked at for one with boxes.
        bbox_clip_border: Clip boxes to the image.
    """

    def __init__(
        self,
        img_scale: tuple[int, int] = (640, 640),
        ratio_range: tuple[float, float] = (0.5, 1.5),
        flip_ratio: float = 0.5,
        pad_val: float = 114.0,
        max_iters: int = 15,
        bbox_clip_border: bool = True,
    ) -> None:
        if not 0 <= flip_ratio <= 1:
            raise ValueError(f"flip_ratio must lie in [0, 1], got {flip_ratio}")
        if max_iters < 1:
            raise ValueError(f"max_iters must be at least 1, got {max_iters}")
        self.img_scale, self.ratio_range = as_scale(img_scale), _range("ratio_range", ratio_range, 0.01, 100)
        self.flip_ratio, self.pad_val, self.max_iters = flip_ratio, pad_val, max_iters
        self.bbox_clip_border = bbox_clip_border

    def get_indexes(self, dataset: Any) -> int:
        """A sample with objects, as far as ``max_iters`` draws find one."""
        for _ in range(self.max_iters):
            index = int(np.random.randint(0, len(dataset)))
            if dataset.get_cat_ids(index):
                break
        return index

    def transform(self, results: Results) -> Results:
        """Mix; the sample stays as it is where the second image has no boxes.

        Raises:
            DataError: There is not one more image, or the sample has a label map.
        """
        (other,) = _others(self, results, 1)
        if not len(other["gt_bboxes"]):
            return results
        jitter = np.random.uniform(*self.ratio_range)
        mirror = np.random.uniform(0, 1) > 1 - self.flip_ratio
        width, height = self.img_scale
        scale = min(height / other["img"].shape[0], width / other["img"].shape[1])
        canvas = np.full((height, width, *other["img"].shape[2:]), self.pad_val, other["img"].dtype)
        _paste(canvas, _scaled(other["img"], scale), 0, 0)
        second = _scaled(canvas, jitter)
        part = _moved(other, scale * jitter, (0, 0), second.shape[:2])
        if self.bbox_clip_border and len(part["gt_bboxes"]):
            clip_boxes(part["gt_bboxes"], second.shape[:2])
        if mirror:
            second = flip_array(second, "horizontal")
            part = _mirrored(part, second.shape[1])
        shape = results["img"].shape[:2]
        top, left = (
            int(np.random.randint(0, large - small)) if large > small else 0
            for large, small in zip(second.shape[:2], shape, strict=True)
        )
        window = np.full(results["img"].shape, self.pad_val, results["img"].dtype)
        _paste(window, second, -left, -top)
        parts = [_moved(results, 1.0, (0, 0), shape), _moved(part, 1.0, (-left, -top), shape)]
        if self.bbox_clip_border:
            clip_boxes(parts[1]["gt_bboxes"], shape)
        return _mixed(results, _average(results["img"], window), parts, clip=False)

    def __repr__(self) -> str:
        return f"MixUp(img_scale={self.img_scale}, ratio_range={self.ratio_range})"


def _range(name: str, bounds: Sequence[float], least: float, most: float) -> tuple[float, float]:
    low, high = bounds
    if not least <= low <= high <= most:
        raise ValueError(f"{name} must be two rising numbers in [{least}, {most}], got {tuple(bounds)}")
    return float(low), float(high)


def _others(transform: BaseTransform, results: Results, count: int) -> list[Results]:
    """The further samples that the data set has loaded."""
    name, others = type(transform).__name__, results.get("mix_results")
    if others is None or len(others) != count:
        raise DataError(
            f"{name} needs {count} more image(s), got {len(others or ())}: it belongs into the pipeline of a "
            "MultiImageMixDataset"
        )
    if any(sample.get("gt_seg_map") is not None for sample in (results, *others)):
        raise DataError(f"{name} mixes boxes and masks, but no label maps (with_seg=True)")
    if results.get("proposals") is not None:
        raise DataError(f"{name} mixes boxes and masks, but no proposals (LoadProposals)")
    return list(others)


def _scaled(img: np.ndarray, scale: float) -> np.ndarray:
    height, width = img.shape[:2]
    return resize_array(img, (max(int(width * scale), 1), max(int(height * scale), 1)), "bilinear")


def _paste(canvas: np.ndarray, img: np.ndarray, left: int, top: int) -> None:
    """Put an image on a canvas in place; what reaches beyond it is cut off."""
    bottom, right = min(top + img.shape[0], canvas.shape[0]), min(left + img.shape[1], canvas.shape[1])
    first_row, first_column = max(top, 0), max(left, 0)
    if first_row < bottom and first_column < right:
        canvas[first_row:bottom, first_column:right] = img[
            first_row - top : bottom - top, first_column - left : right - left
        ]


def _moved(
    sample: Mapping[str, Any], scale: float, shift: tuple[int, int], shape: tuple[int, int]
) -> Instances:
    """A sample's instances after it was scaled, and moved by (right, down) pixels on a canvas of (h, w)."""
    moved = {key: sample[key] for key in ("gt_bboxes_labels", "gt_ignore_flags") if key in sample}
    if sample.get("gt_bboxes") is not None:
        moved["gt_bboxes"] = sample["gt_bboxes"] * np.float32(scale) + np.array([*shift, *shift], np.float32)
    if sample.get("gt_masks") is not None:
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], np.float64)
        moved["gt_masks"] = sample["gt_masks"].warp(matrix, shape)
    return moved


def _mirrored(part: Instances, width: int) -> Instances:
    boxes = part["gt_bboxes"].copy()
    boxes[:, 0], boxes[:, 2] = width - part["gt_bboxes"][:, 2], width - part["gt_bboxes"][:, 0]
    masks = {"gt_masks": part["gt_masks"].flip("horizontal")} if "gt_masks" in part else {}
    return {**part, "gt_bboxes": boxes, **masks}


def _mixed(results: Results, img: np.ndarray, parts: Sequence[Instances], clip: bool) -> Results:
    """The sample with a new image and the instances of all parts that lie on it."""
    shape = img.shape[:2]
    for key in parts[0]:
        values = [part[key] for part in parts]
        results[key] = type(values[0]).cat(values) if key == "gt_masks" else np.concatenate(values)
    boxes: Any = results.get("gt_bboxes")
    if boxes is not None:
        boxes = results["gt_bboxes"] = clip_boxes(boxes, shape) if clip else boxes
        inside = (boxes[:, :2] < shape[::-1]).all(1) & (boxes[:, 2:] > 0).all(1)
        keep_instances(results, inside)
    results["img"], results["img_shape"] = img, shape
    results.pop("homography_matrix", None)  # no single one leads from the original image to this
    return results


def _average(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Half of each, rounded down for whole numbers."""
    if first.dtype == np.uint8:
        mean: np.ndarray = ((first.astype(np.uint16) + second) >> 1).astype(np.uint8)
        return mean
    return first * first.dtype.type(0.5) + second * first.dtype.type(0.5)
