"""What transforms that mix several images have in common: fitting, placing and averaging them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from detcore.data.transforms.base import BaseTransform, Results, keep_instances
from detcore.data.transforms.fill import fill_of
from detcore.data.transforms.flip import flip_array
from detcore.data.transforms.geometry import clip_boxes, resize_array
from detcore.errors import DataError
from detcore.structures.mask import BitmapMasks, PolygonMasks

Instances = dict[str, Any]
FIELDS = ("gt_bboxes", "gt_bboxes_labels", "gt_ignore_flags", "gt_masks")


class Fitted(NamedTuple):
    """An image as large as fits into a frame, and its objects as they were before.

    Attributes:
        img: The scaled image (h, w[, C]), the sample's own where it fits as it is.
        scale: What it was scaled by.
        instances: The sample's fields of objects, in pixels of the image that was not scaled.
    """

    img: np.ndarray
    scale: float
    instances: Instances


def fitted(sample: Mapping[str, Any], frame: tuple[int, int]) -> Fitted:
    """A sample's image fitted into a frame (width, height); the fields are the sample's own."""
    width, height = frame
    scale = min(height / sample["img"].shape[0], width / sample["img"].shape[1])
    instances = {key: sample[key] for key in FIELDS if sample.get(key) is not None}
    return Fitted(_scaled(sample["img"], scale), scale, instances)


def mosaic_of(
    results: Results,
    parts: Sequence[Fitted],
    frame: tuple[int, int],
    center_ratio_range: tuple[float, float],
    pad_val: tuple[float, ...],
    clip: bool,
) -> Results:
    """Put four images around a drawn corner, on a canvas twice as wide and high as the frame.

    Args:
        results: The sample that takes the mosaic.
        parts: Upper left, upper right, lower left and lower right image.
        frame: (width, height) that the images were fitted into.
        center_ratio_range: The corner lies at so many widths and heights of the frame.
        pad_val: Value of pixels that no image covers.
        clip: Clip boxes to the canvas.
    """
    check_alike([results["img"], *(part.img for part in parts)])
    shape = (2 * frame[1], 2 * frame[0])
    canvas = np.empty((*shape, *results["img"].shape[2:]), results["img"].dtype)
    fill = fill_of(canvas, pad_val, "pad_val")
    x, y = (int(np.random.uniform(*center_ratio_range) * side) for side in frame)
    quarters = (canvas[:y, :x], canvas[:y, x:], canvas[y:, :x], canvas[y:, x:])
    placed = []
    for number, (part, quarter) in enumerate(zip(parts, quarters, strict=True)):
        height, width = part.img.shape[:2]
        left, top = x - (0 if number % 2 else width), y - (0 if number // 2 else height)
        _fill_around(quarter, (height, width), fill, right=not number % 2, below=not number // 2)
        _paste(canvas, part.img, left, top)
        placed.append(_moved(part.instances, part.scale, (left, top), shape))
    return _mixed(results, canvas, placed, clip)


def average_of(
    results: Results,
    other: Fitted,
    frame: tuple[int, int],
    ratio_range: tuple[float, float],
    flip_ratio: float,
    pad_val: tuple[float, ...],
    clip: bool,
) -> Results:
    """Half of the sample and half of another image, which is scaled, mirrored or not, and cut or padded.

    Args:
        results: The sample.
        other: The second image.
        frame: (width, height) that it was fitted into, and is padded to.
        ratio_range: Range of the factor that it is scaled by then.
        flip_ratio: Probability of mirroring it.
        pad_val: Value of pixels that it does not cover.
        clip: Clip its boxes to the image.
    """
    check_alike([results["img"], other.img])
    jitter = np.random.uniform(*ratio_range)
    mirror = np.random.uniform(0, 1) > 1 - flip_ratio
    canvas = _blank(frame[::-1], other.img, pad_val)
    _paste(canvas, other.img, 0, 0)
    second = _scaled(canvas, jitter)
    part = _moved(other.instances, other.scale * jitter, (0, 0), second.shape[:2])
    if clip:
        clip_boxes(part["gt_bboxes"], second.shape[:2])
    if mirror:
        second = flip_array(second, "horizontal")
        part = _mirrored(part, second.shape[1])
    shape = results["img"].shape[:2]
    top, left = (
        int(np.random.randint(0, large - small)) if large > small else 0
        for large, small in zip(second.shape[:2], shape, strict=True)
    )
    window = _blank(shape, results["img"], pad_val)
    _paste(window, second, -left, -top)
    own = {key: results[key] for key in FIELDS if results.get(key) is not None}
    parts = [_moved(own, 1.0, (0, 0), shape), _moved(part, 1.0, (-left, -top), shape)]
    if clip:
        clip_boxes(parts[1]["gt_bboxes"], shape)
    return _mixed(results, _average(results["img"], window), parts, clip=False)


def checked_range(name: str, bounds: Sequence[float], least: float, most: float) -> tuple[float, float]:
    """Two rising numbers.

    Raises:
        ValueError: They fall, or leave [least, most].
    """
    low, high = bounds
    if not least <= low <= high <= most:
        raise ValueError(f"{name} must be two rising numbers in [{least}, {most}], got {tuple(bounds)}")
    return float(low), float(high)


def further_samples(transform: BaseTransform, results: Results, count: int) -> list[Results]:
    """The further samples that the data set has loaded.

    Raises:
        DataError: There are not so many, or samples cannot be mixed.
    """
    name, others = type(transform).__name__, results.get("mix_results")
    if others is None or len(others) != count:
        raise DataError(
            f"{name} needs {count} more image(s), got {len(others or ())}: it belongs into the pipeline of a "
            "MultiImageMixDataset"
        )
    for sample in (results, *others):
        check_mixable(transform, sample)
    return list(others)


def check_mixable(transform: BaseTransform, sample: Mapping[str, Any]) -> None:
    """Refuse a sample with something that is not mixed.

    Raises:
        DataError: It has a label map or proposals.
    """
    name = type(transform).__name__
    if sample.get("gt_seg_map") is not None:
        raise DataError(f"{name} mixes boxes and masks, but no label maps (with_seg=True)")
    if sample.get("proposals") is not None:
        raise DataError(f"{name} mixes boxes and masks, but no proposals (LoadProposals)")


def check_alike(images: Sequence[np.ndarray]) -> None:
    """Refuse images (H, W[, C]) that cannot stand in one picture.

    Raises:
        DataError: Their channels or types differ.
    """
    kinds = {f"{each.shape[2:] or 'grey'} {each.dtype}" for each in images}
    if len(kinds) > 1:
        raise DataError(
            f"images that are mixed must have the same channels and type, got {'; '.join(sorted(kinds))}: "
            "load all alike (LoadImageFromFile: color_type, to_float32)"
        )


def _blank(shape: tuple[int, int], like: np.ndarray, pad_val: tuple[float, ...]) -> np.ndarray:
    """An image of (h, w) with the channels and the type of another, of one value everywhere."""
    canvas: np.ndarray = np.empty((*shape, *like.shape[2:]), like.dtype)
    _fill(canvas, fill_of(like, pad_val, "pad_val"))
    return canvas


def _fill(part: np.ndarray, values: tuple[float, ...]) -> None:
    """Give every pixel (h, w[, C]) of a part of an image the same values, in place."""
    part[...] = values[0] if len(set(values)) == 1 else values


def _fill_around(
    area: np.ndarray, taken: tuple[int, int], values: tuple[float, ...], right: bool, below: bool
) -> None:
    """Fill what an image of (h, w) leaves of an area in whose corner it will lie: at the right, and below."""
    height, width = min(taken[0], area.shape[0]), min(taken[1], area.shape[1])
    rows, rest = (slice(area.shape[0] - height, None), slice(area.shape[0] - height)) if below else (
        slice(height), slice(height, None)
    )  # fmt: skip
    _fill(area[rest], values)
    _fill(area[rows, : area.shape[1] - width] if right else area[rows, width:], values)


def _scaled(img: np.ndarray, scale: float) -> np.ndarray:
    """An image scaled with its aspect ratio kept; itself where that changes nothing."""
    height, width = img.shape[:2]
    size = max(int(width * scale), 1), max(int(height * scale), 1)
    return img if size == (width, height) else resize_array(img, size, "bilinear")


def _paste(canvas: np.ndarray, img: np.ndarray, left: int, top: int) -> None:
    """Put an image on a canvas in place; what reaches beyond it is cut off."""
    bottom, right = min(top + img.shape[0], canvas.shape[0]), min(left + img.shape[1], canvas.shape[1])
    first_row, first_column = max(top, 0), max(left, 0)
    if first_row < bottom and first_column < right:
        canvas[first_row:bottom, first_column:right] = img[
            first_row - top : bottom - top, first_column - left : right - left
        ]


def _moved(instances: Instances, scale: float, shift: tuple[int, int], shape: tuple[int, int]) -> Instances:
    """Objects after their image was scaled, and moved by (right, down) pixels on a canvas of (h, w)."""
    moved = dict(instances)
    if "gt_bboxes" in moved:
        moved["gt_bboxes"] = moved["gt_bboxes"] * np.float32(scale) + np.array([*shift, *shift], np.float32)
    if "gt_masks" in moved:
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], np.float64)
        moved["gt_masks"] = moved["gt_masks"].warp(matrix, shape)
    return moved


def _mirrored(part: Instances, width: int) -> Instances:
    boxes = part["gt_bboxes"].copy()
    boxes[:, 0], boxes[:, 2] = width - part["gt_bboxes"][:, 2], width - part["gt_bboxes"][:, 0]
    masks = {"gt_masks": part["gt_masks"].flip("horizontal")} if "gt_masks" in part else {}
    return {**part, "gt_bboxes": boxes, **masks}


def _mixed(results: Results, img: np.ndarray, parts: Sequence[Instances], clip: bool) -> Results:
    """The sample with a new image and the instances of all parts that lie on it."""
    shape = img.shape[:2]
    if len({frozenset(part) for part in parts}) > 1:
        raise DataError(
            "images that are mixed must be annotated alike, got "
            + "; ".join(", ".join(part) or "nothing" for part in parts)
        )
    for key in parts[0]:
        values = [part[key] for part in parts]
        results[key] = cat_masks(values) if key == "gt_masks" else np.concatenate(values)
    boxes: Any = results.get("gt_bboxes")
    if boxes is not None:
        boxes = results["gt_bboxes"] = clip_boxes(boxes, shape) if clip else boxes
        inside = (boxes[:, :2] < shape[::-1]).all(1) & (boxes[:, 2:] > 0).all(1)
        keep_instances(results, inside)
    results["img"], results["img_shape"] = img, shape
    results.pop("homography_matrix", None)  # no single one leads from the original image to this
    return results


def cat_masks(masks: Sequence[BitmapMasks | PolygonMasks]) -> BitmapMasks | PolygonMasks:
    """All masks in one: bitmaps unless all are polygons (`LoadEmptyAnnotations` makes bitmaps)."""
    outlines = [each for each in masks if isinstance(each, PolygonMasks)]
    if len(outlines) == len(masks):
        return PolygonMasks.cat(outlines)
    return BitmapMasks.cat([each.to_bitmap() for each in masks])


def _average(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Half of each, rounded down for whole numbers."""
    if first.dtype == np.uint8:
        mean: np.ndarray = ((first.astype(np.uint16) + second) >> 1).astype(np.uint8)
        return mean
    return first * first.dtype.type(0.5) + second * first.dtype.type(0.5)
