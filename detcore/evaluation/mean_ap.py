"""Mean average precision by the rules of PASCAL VOC (Everingham et al., IJCV 2010, section 4.2)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detcore.errors import ConfigError
from detcore.evaluation.boxes import average_precision

Annotation = Mapping[str, np.ndarray]


def eval_map(
    det_results: Sequence[Sequence[np.ndarray]],
    annotations: Sequence[Annotation],
    scale_ranges: Sequence[tuple[float, float]] | None = None,
    iou_thr: float = 0.5,
    logger: logging.Logger | None = None,
    dataset: Sequence[str] | None = None,
    eval_mode: str = "area",
    use_legacy_coordinate: bool = False,
) -> tuple[float, list[dict[str, Any]]]:
    """Average precision of each class, and its mean over the classes that have objects.

    Detections of a class go by descending score over all images. One counts as right where the object of
    its image that it overlaps most, by at least ``iou_thr``, is not taken yet; where that object is ignored,
    the detection does not count at all; every other one is wrong.

    Args:
        det_results: Of each image, of each class, float (D, 5): xyxy and score.
        annotations: Of each image ``bboxes``, float (G, 4), and ``labels``, int (G,); where there are any,
            ``bboxes_ignore`` and ``labels_ignore``.
        scale_ranges: Least and greatest side, in pixels, of the objects to look at; figures become arrays
            with one entry a range.
        iou_thr: Least overlap.
        logger: Gets a line for each class; None writes nothing.
        dataset: Names of the classes, for these lines.
        eval_mode: ``'area'`` or ``'11points'``, see `average_precision`.
        use_legacy_coordinate: Count the last pixel of a box into its sides, as VOC does.

    Returns:
        The mean (float, or an array with ranges; 0 where no class has an object), and for each class
        ``num_gts``, ``num_dets``, ``recall``, ``precision`` and ``ap``.

    Raises:
        ConfigError: There are not as many images on both sides, or an unknown mode.
    """
    if len(det_results) != len(annotations):
        raise ConfigError(f"{len(annotations)} images have annotations, {len(det_results)} have detections")
    ranges = [(0.0, np.inf)] if scale_ranges is None else [(low, high) for low, high in scale_ranges]
    extra = 1.0 if use_legacy_coordinate else 0.0
    num_classes = len(det_results[0]) if det_results else 0
    results = []
    for label in range(num_classes):
        found = [np.asarray(image[label], float).reshape(-1, 5) for image in det_results]
        wanted = [_objects(each, label) for each in annotations]
        per_range = [_curve(found, wanted, iou_thr, bounds, extra, eval_mode) for bounds in ranges]
        results.append(_joined(per_range) if scale_ranges is not None else per_range[0])
    means = []
    for row in range(len(ranges)):
        aps = [np.atleast_1d(each["ap"])[row] for each in results if np.atleast_1d(each["num_gts"])[row] > 0]
        means.append(float(np.mean(aps)) if aps else 0.0)
    if logger is not None:
        _log(results, means, dataset, logger)
    return (means[0] if scale_ranges is None else np.array(means)), results  # type: ignore[return-value]


def _objects(annotation: Annotation, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (G, 4) of a class in one image, and which of them are ignored, bool (G,)."""
    boxes, flags = [], []
    for ignored, (name, labels) in enumerate((("bboxes", "labels"), ("bboxes_ignore", "labels_ignore"))):
        of_image = np.asarray(annotation.get(name, np.zeros((0, 4))), float).reshape(-1, 4)
        chosen = of_image[np.asarray(annotation.get(labels, np.zeros(0)), int).reshape(-1) == label]
        boxes.append(chosen)
        flags.append(np.full(len(chosen), bool(ignored)))
    return np.concatenate(boxes), np.concatenate(flags)


def _curve(
    found: list[np.ndarray],
    wanted: list[tuple[np.ndarray, np.ndarray]],
    iou_thr: float,
    bounds: tuple[float, float],
    extra: float,
    eval_mode: str,
) -> dict[str, Any]:
    """The figures of one class and one range of sizes."""
    judged = [np.zeros((0, 3))]
    total = 0
    for boxes, (objects, ignored) in zip(found, wanted, strict=True):
        left_out = ignored | ~_within(objects, bounds, extra)
        total += int((~left_out).sum())
        ranked = boxes[np.argsort(-boxes[:, 4], kind="stable")]
        flags = _judged(ranked[:, :4], objects, left_out, iou_thr, bounds, extra)
        judged.append(np.stack([ranked[:, 4], *flags], axis=1))
    every = np.concatenate(judged)
    order = np.argsort(-every[:, 0], kind="stable")
    right, wrong = np.cumsum(every[order, 1]), np.cumsum(every[order, 2])
    tiny = float(np.finfo(np.float32).eps)
    recall, precision = right / max(total, tiny), right / np.maximum(right + wrong, tiny)
    ap = average_precision(recall, precision, eval_mode)
    return {"num_gts": total, "num_dets": len(order), "recall": recall, "precision": precision, "ap": ap}


def _within(boxes: np.ndarray, bounds: tuple[float, float], extra: float) -> np.ndarray:
    """bool (N,): whether the area lies in the range of squares of these sides."""
    area = (boxes[:, 2:4] - boxes[:, :2] + extra).prod(axis=1)
    inside: np.ndarray = (area >= bounds[0] ** 2) & (area < bounds[1] ** 2)
    return inside


def _judged(
    boxes: np.ndarray,
    objects: np.ndarray,
    ignored: np.ndarray,
    iou_thr: float,
    bounds: tuple[float, float],
    extra: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Which of an image's boxes (D, 4), best first, are right and which wrong, float (D,); some neither."""
    tp, fp = np.zeros(len(boxes)), np.zeros(len(boxes))
    counted = _within(boxes, bounds, extra)
    if not len(objects):
        fp[counted] = 1
        return tp, fp
    overlaps = _overlaps(boxes, objects, extra)
    best, partner = overlaps.max(axis=1), overlaps.argmax(axis=1)
    taken = np.zeros(len(objects), bool)
    for row, number in enumerate(partner.tolist()):
        if best[row] < iou_thr:
            fp[row] = counted[row]
        elif not ignored[number]:
            tp[row], fp[row] = not taken[number], taken[number]
            taken[number] = True
    return tp, fp


def _overlaps(one: np.ndarray, other: np.ndarray, extra: float) -> np.ndarray:
    """Intersection over union (N, M); ``extra`` is added to every side."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:4], other[None, :, 2:4])
    common = (high - low + extra).clip(0).prod(axis=-1)
    areas = [(boxes[:, 2:4] - boxes[:, :2] + extra).prod(axis=1) for boxes in (one, other)]
    union = areas[0][:, None] + areas[1][None] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def _joined(per_range: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of several ranges of sizes in arrays, one row a range."""
    joined = {name: np.stack([each[name] for each in per_range]) for name in ("recall", "precision")}
    counts = {name: np.array([each[name] for each in per_range]) for name in ("num_gts", "ap")}
    return {**joined, **counts, "num_dets": per_range[0]["num_dets"]}


def _log(
    results: list[dict[str, Any]], means: list[float], dataset: Sequence[str] | None, logger: logging.Logger
) -> None:
    for label, each in enumerate(results):
        name = dataset[label] if dataset is not None else str(label)
        figures = ", ".join(f"{ap:.3f}" for ap in np.atleast_1d(each["ap"]))
        logger.info("%s: %s objects, %d detections, AP %s", name, each["num_gts"], each["num_dets"], figures)
    logger.info("mean AP: %s", ", ".join(f"{mean:.3f}" for mean in means))
