"""COCO's matching and precision-recall curves by pycocotools or by hotcoco, with equal results."""
import contextlib
import importlib.util
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from det_datasets.coco_truth import CocoTruth, Detections
from detcore.errors import ConfigError

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "pycocotools", "hotcoco")


@dataclass(frozen=True)
class EvalSettings:
    """What to measure.

    Attributes:
        iou_thrs: ``float64[T]``, overlaps from which a detection counts as found.
        max_dets: numbers of detections per image (and class) to look at, ascending.
        iou_type: ``'bbox'`` or ``'segm'``.
        use_cats: whether classes must agree; without, all objects are one class (proposals).
    """

    iou_thrs: np.ndarray
    max_dets: tuple[int, ...]
    iou_type: str = "bbox"
    use_cats: bool = True


@dataclass(frozen=True)
class Curves:
    """Precision and recall: T overlaps, R = 101 recalls, K classes, A = 4 areas, M numbers of detections.

    Attributes:
        precision: ``float64[T, R, K, A, M]``, -1 where there is no object to find.
        recall: ``float64[T, K, A, M]``, -1 likewise.
        settings: what was measured. Areas are all, small, medium, large.
    """

    precision: np.ndarray
    recall: np.ndarray
    settings: EvalSettings


def resolve_backend(backend: str) -> str:
    """The backend that is meant: ``auto`` is hotcoco where it is installed, else pycocotools.

    Raises:
        ConfigError: an unknown name, or hotcoco is asked for and not installed.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    installed = importlib.util.find_spec("hotcoco") is not None
    if backend == "hotcoco" and not installed:
        raise ConfigError("backend='hotcoco' needs the package hotcoco: pip install 'detcore[fast-eval]'")
    if backend == "auto":
        return "hotcoco" if installed else "pycocotools"
    return backend


def evaluate_curves(
    truth: CocoTruth, labels: np.ndarray, detections: Detections, num_classes: int, settings: EvalSettings,
    backend: str = "auto",
) -> Curves:
    """Match detections to objects and measure precision and recall.

    Both libraries get ids that count from 1: images by their place in `truth.image_ids`, classes by label,
    objects by row, so nothing depends on the ids in a file.

    Args:
        truth: the objects.
        labels: ``int[A]``, class of each object as index into the classes, -1 for one that is not evaluated.
        detections: what was found.
        num_classes: number of classes K.
        settings: what to measure.
        backend: ``'auto'``, ``'pycocotools'`` or ``'hotcoco'``.
    """
    run = _hotcoco if resolve_backend(backend) == "hotcoco" else _pycocotools
    with contextlib.redirect_stdout(io.StringIO()) as said:
        precision, recall = run(truth, np.asarray(labels), detections, num_classes, settings)
    for line in said.getvalue().splitlines():
        logger.debug("%s", line)
    return Curves(np.asarray(precision), np.asarray(recall), settings)


def _image_records(truth: CocoTruth) -> list[dict[str, Any]]:
    return [
        {"id": row + 1, "height": int(height), "width": int(width)}
        for row, (height, width) in enumerate(truth.image_sizes)
    ]


def _category_records(num_classes: int) -> list[dict[str, Any]]:
    return [{"id": label + 1, "name": str(label + 1)} for label in range(num_classes)]


def _hotcoco(
    truth: CocoTruth, labels: np.ndarray, detections: Detections, num_classes: int, settings: EvalSettings
) -> tuple[np.ndarray, np.ndarray]:
    from hotcoco import COCO, COCOeval

    used = np.flatnonzero(labels >= 0)
    segm = settings.iou_type == "segm"
    objects = COCO.from_arrays(
        _image_records(truth), _category_records(num_classes), truth.images[used] + 1, labels[used] + 1,
        np.ascontiguousarray(truth.boxes[used]), area=truth.areas[used], iscrowd=truth.crowd[used],
        segmentation=[truth.segmentations[row] for row in used] if segm else None,
    )
    table = np.column_stack(
        [detections.images + 1, detections.boxes, detections.scores, detections.labels + 1]
    ).astype(np.float64)
    found = objects.load_res(table, segmentation=detections.segmentations if segm else None)
    if segm:  # small, medium and large are told by the mask; a row of the table has its box's area
        found.update_anns(ids=np.arange(len(detections)) + 1, area=_mask_areas(detections.segmentations))
    job = COCOeval(objects, found, settings.iou_type)
    job.params.iou_thrs = [float(value) for value in settings.iou_thrs]
    job.params.max_dets = list(settings.max_dets)
    job.params.use_cats = settings.use_cats
    job.evaluate()
    job.accumulate()
    measured = cast(dict[str, Any], job.eval)
    return measured["precision"], measured["recall"]


def _pycocotools(
    truth: CocoTruth, labels: np.ndarray, detections: Detections, num_classes: int, settings: EvalSettings
) -> tuple[np.ndarray, np.ndarray]:
    from pycocotools.cocoeval import COCOeval

    used = np.flatnonzero(labels >= 0)
    objects = [
        {
            "id": number + 1, "image_id": int(truth.images[row]) + 1, "category_id": int(labels[row]) + 1,
            "bbox": truth.boxes[row].tolist(), "area": float(truth.areas[row]),
            "iscrowd": int(truth.crowd[row]), "segmentation": truth.segmentations[row],
        }
        for number, row in enumerate(used)
    ]
    boxes, scores = detections.boxes.tolist(), detections.scores.tolist()
    images, classes = detections.images.tolist(), detections.labels.tolist()
    masks = detections.segmentations or [None] * len(boxes)
    areas = _mask_areas(masks) if settings.iou_type == "segm" else [box[2] * box[3] for box in boxes]
    found = [
        {
            "id": row + 1, "image_id": images[row] + 1, "category_id": classes[row] + 1, "bbox": boxes[row],
            "score": scores[row], "area": areas[row], "iscrowd": 0, "segmentation": masks[row],
        }
        for row in range(len(boxes))
    ]
    job = COCOeval(_index(truth, objects, num_classes), _index(truth, found, num_classes), settings.iou_type)
    job.params.iouThrs = np.asarray(settings.iou_thrs, dtype=np.float64)
    job.params.maxDets = list(settings.max_dets)
    job.params.useCats = int(settings.use_cats)
    job.evaluate()
    job.accumulate()
    return job.eval["precision"], job.eval["recall"]


def _index(truth: CocoTruth, records: list[dict[str, Any]], num_classes: int) -> Any:
    from pycocotools.coco import COCO

    table = COCO()
    table.dataset = {
        "images": _image_records(truth), "categories": _category_records(num_classes), "annotations": records
    }
    table.createIndex()
    return table


def _mask_areas(masks: Sequence[Any]) -> list[float]:
    from pycocotools import mask

    return [float(mask.area(one)) for one in masks]  # a whole list overflows in pycocotools with numpy 2
