"""Checks for data sets and transforms."""

import copy
import pickle
import random
from typing import Any

import numpy as np
import torch

from detcore.registry import DATASETS, TRANSFORMS
from detcore.structures.mask import BitmapMasks
from detcore.testing.building import Source, build, require


def check_dataset(source: Source, *, items: int = 4) -> None:
    """Check all that a data set promises.

    It has images and ``metainfo['classes']``; boxes are finite, with labels that are classes; asking twice
    gives the same; it can be pickled for worker processes.

    Args:
        source: ``dict(type=...)``, or a function that builds the data set; with its pipeline of training.
        items: How many images to look at.

    Raises:
        AssertionError: Says which promise is broken.
    """
    dataset = build(source, DATASETS)
    require(len(dataset) > 0, "the data set has no images")
    classes = dataset.metainfo.get("classes")
    is_classes = isinstance(classes, tuple | list) and classes and all(isinstance(c, str) for c in classes)
    require(is_classes, f"metainfo['classes'] must be a tuple of names, got {classes!r}")
    require(len(set(classes)) == len(classes), f"a class stands twice in {classes}")
    again = pickle.loads(pickle.dumps(dataset))  # noqa: S301  (our own bytes)
    for index in range(min(items, len(dataset))):
        info = dataset.get_data_info(index)
        require(
            isinstance(info, dict) and info.get("img_path"), "get_data_info must give a dict with img_path"
        )
        for instance in info.get("instances", []):
            box, label = np.asarray(instance["bbox"], float), instance["bbox_label"]
            require(box.shape == (4,) and np.isfinite(box).all(), f"image {index}: the box {box} is not xyxy")
            require(box[0] <= box[2] and box[1] <= box[3], f"image {index}: the box {box} is inverted")
            require(
                0 <= label < len(classes), f"image {index}: label {label} is none of {len(classes)} classes"
            )
        require(
            all(0 <= each < len(classes) for each in dataset.get_cat_ids(index)),
            "get_cat_ids gives no classes",
        )
        _same_samples(_item(dataset, index), _item(dataset, index), f"image {index} differs when asked twice")
        _same_samples(_item(dataset, index), _item(again, index), f"image {index} differs in another process")


def check_transform(source: Source, results: dict[str, Any] | None = None) -> None:
    """Check all that a transform promises.

    It takes and returns a ``results`` dict, or None to refuse the sample; what it changes stays consistent
    (``img_shape`` is that of the image; boxes, labels and masks have one entry an object); one seed gives one
    result, unless it says that it ``remembers``; an image without objects passes; it can be pickled for
    worker processes.

    Args:
        source: ``dict(type=...)``, or a function that builds the transform.
        results: What it gets; by default a loaded picture with boxes, labels and masks.

    Raises:
        AssertionError: Says which promise is broken.
    """
    transform = build(source, TRANSFORMS)
    given = tiny_results() if results is None else results
    first = _apply(transform, given)
    require(
        first is None or isinstance(first, dict), f"it must give a dict or None, got {type(first).__name__}"
    )
    again = pickle.loads(pickle.dumps(transform))  # noqa: S301  (our own bytes)
    if not getattr(transform, "remembers", False):
        _same_samples(first, _apply(transform, given), "it differs for one seed")
    _same_samples(first, _apply(again, given), "it differs in another process")
    if first is not None:
        _check_results(first)
    if results is None:
        empty = _apply(transform, tiny_results(objects=0))
        if empty is not None:
            _check_results(empty)


def tiny_results(objects: int = 3, size: tuple[int, int] = (48, 64)) -> dict[str, Any]:
    """What a pipeline hands from step to step: a picture with boxes, labels, masks.

    Args:
        objects: How many.
        size: Height and width.
    """
    draw = np.random.default_rng(0)
    height, width = size
    corner = draw.uniform(0, [width / 2, height / 2], (objects, 2))
    boxes = np.concatenate([corner, corner + draw.uniform(6, height / 2, (objects, 2))], 1).astype(np.float32)
    masks = np.zeros((objects, height, width), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        mask[top:bottom, left:right] = 1
    return {
        "img": draw.integers(0, 256, (height, width, 3), np.uint8),
        "img_id": 0,
        "img_path": "0.jpg",
        **dict.fromkeys(("img_shape", "ori_shape"), size),
        "gt_bboxes": boxes,
        "gt_bboxes_labels": draw.integers(0, 5, objects),
        "gt_ignore_flags": np.zeros(objects, bool),
        "gt_masks": BitmapMasks(masks, height, width),
    }


def _apply(transform: Any, results: dict[str, Any]) -> Any:
    _seed(0)
    return transform(copy.deepcopy(results))


def _item(dataset: Any, index: int) -> Any:
    _seed(index)
    return dataset[index]


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _check_results(results: dict[str, Any]) -> None:
    image = results.get("img")
    if image is not None:
        require(isinstance(image, np.ndarray) and image.ndim == 3, "img must be an array of (H, W, C)")
        shape = tuple(results.get("img_shape", ())[:2])
        require(shape == image.shape[:2], f"img_shape is {shape}, the image has {image.shape[:2]}")
    boxes = results.get("gt_bboxes")
    if boxes is None:
        return
    require(boxes.ndim == 2 and boxes.shape[1] == 4, f"gt_bboxes must be (N, 4), got {boxes.shape}")
    for name in ("gt_bboxes_labels", "gt_ignore_flags", "gt_masks"):
        if results.get(name) is not None:
            number = len(results[name])
            require(number == len(boxes), f"{name} has {number} entries, gt_bboxes has {len(boxes)}")


def _same_samples(one: Any, two: Any, message: str) -> None:
    require(_equal(one, two), message)


def _equal(one: Any, two: Any) -> bool:
    if type(one) is not type(two):
        return False
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(_equal(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(_equal, one, two))
    if isinstance(one, np.ndarray):
        return np.array_equal(one, two, equal_nan=one.dtype.kind == "f")
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if hasattr(one, "to_dict"):
        return _equal(one.to_dict(), two.to_dict())
    if hasattr(one, "to_ndarray"):
        return _equal(one.to_ndarray(), two.to_ndarray())
    return bool(one == two)
