"""Ground truth and detections of a COCO evaluation, in columns: one row an object, no dict an object."""
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detcore.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CocoTruth:
    """Annotated objects of a data set.

    Attributes:
        image_ids: the images' ids as the file has them, in the order in which they are evaluated.
        image_sizes: ``int[I, 2]``, (height, width) of each image, 0 where the file does not say.
        categories: (id, name) of each category in the file's order.
        images: ``int[A]``, index into `image_ids` of each object.
        category_ids: ``int[A]``.
        boxes: ``float64[A, 4]``, x, y, width, height in absolute pixels.
        areas: ``float64[A]``, square pixels; small, medium and large are told by them.
        crowd: ``bool[A]``, regions where detections count neither way.
        segmentations: polygons or RLE of each object, None where the file has none.
    """

    image_ids: list[int | str]
    image_sizes: np.ndarray
    categories: list[tuple[int, str]]
    images: np.ndarray
    category_ids: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    segmentations: list[Any]

    def __len__(self) -> int:
        return len(self.images)

    def image_index(self) -> dict[int | str, int]:
        """Row of each image id; an id that is written as a string is found by its number, too."""
        index: dict[int | str, int] = {image_id: row for row, image_id in enumerate(self.image_ids)}
        for image_id, row in list(index.items()):
            if isinstance(image_id, str) and image_id.isdecimal():
                index.setdefault(int(image_id), row)
        return index


@dataclass(frozen=True)
class Detections:
    """Detected objects, one row each, in the order in which they were given.

    Attributes:
        images: ``int[D]``, index into the truth's `image_ids`.
        labels: ``int[D]``, index into the classes.
        boxes: ``float64[D, 4]``, x, y, width, height in absolute pixels.
        scores: ``float64[D]``.
        segmentations: RLE of each, or an empty list.
        mask_scores: ``float64[D]``, scores of the masks; those of the boxes where a model has no others.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    segmentations: list[Any]
    mask_scores: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


def read_truth(ann_file: str | Path) -> CocoTruth:
    """Read a COCO json.

    What pycocotools gets wrong or stops at is put right: annotation ids are not used (a match to the id 0
    would count as no match, and of two equal ids one object would be lost); a missing ``area`` is the box's,
    a missing ``iscrowd`` is 0; ids of images may be strings.

    Raises:
        DataError: the file is missing, is no COCO json, or an annotation has no usable box.
    """
    path = Path(ann_file)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"annotation file not found: {path} (absolute: {path.absolute()})") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a json file: {error}") from error
    if not isinstance(content, dict) or "images" not in content:
        found = ", ".join(list(content)[:8]) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise DataError(f"{path} is no COCO annotation file: expected a dict with 'images', found {found}")
    return truth_from_dict(content, str(path))


def truth_from_dict(content: Mapping[str, Any], source: str) -> CocoTruth:
    """The same from the content of such a file.

    Args:
        content: dict with ``images``, ``annotations`` and ``categories``.
        source: what to call it in messages.
    """
    images = _unique_images(content["images"], source)
    index = {image["id"]: row for row, image in enumerate(images)}
    categories = [(int(entry["id"]), str(entry["name"])) for entry in content.get("categories", [])]
    annotations = _known(
        content.get("annotations", []), "image_id", index.__contains__, "images that the file does not list",
        source,
    )
    known = {category for category, _ in categories}
    annotations = _known(
        annotations, "category_id", known.__contains__, "categories that the file does not list", source
    )
    boxes = _boxes(annotations, source)
    finite = np.isfinite(boxes).all(axis=1)
    if not finite.all():
        first = annotations[int(np.argmin(finite))]
        logger.warning(
            "%s: %d annotations have a box with NaN or infinite numbers and are left out of the evaluation, "
            "the first has id %s", source, int((~finite).sum()), first.get("id"),
        )
        annotations = [entry for entry, good in zip(annotations, finite, strict=True) if good]
        boxes = boxes[finite]
    box_areas = boxes[:, 2] * boxes[:, 3]
    areas = [entry.get("area") for entry in annotations]
    return CocoTruth(
        image_ids=[image["id"] for image in images],
        image_sizes=np.array(
            [(image.get("height") or 0, image.get("width") or 0) for image in images], dtype=np.int64
        ).reshape(-1, 2),
        categories=categories,
        images=np.array([index[entry["image_id"]] for entry in annotations], dtype=np.int64),
        category_ids=np.array([entry["category_id"] for entry in annotations], dtype=np.int64),
        boxes=boxes,
        areas=np.array(
            [own if area is None else area for area, own in zip(areas, box_areas, strict=True)], np.float64
        ),
        crowd=np.array([bool(entry.get("iscrowd", 0)) for entry in annotations], dtype=bool),
        segmentations=[entry.get("segmentation") for entry in annotations],
    )


def rows_of_images(rows: np.ndarray, images: np.ndarray, num_images: int) -> list[np.ndarray]:
    """Copies of the rows of each image, in their order.

    Args:
        rows: (N, ...).
        images: ``int[N]``, image of each row.
        num_images: number of images.
    """
    order = np.argsort(images, kind="stable")
    ends = np.searchsorted(images[order], np.arange(1, num_images))
    return np.split(rows[order], ends)


def _unique_images(images: Sequence[Mapping[str, Any]], source: str) -> list[Mapping[str, Any]]:
    """Images by ascending id, as pycocotools goes through them: ties between scores depend on it."""
    unique = {image["id"]: image for image in images}
    if len(unique) < len(images):
        logger.warning("%s lists %d images twice", source, len(images) - len(unique))
    if all(isinstance(image_id, int) for image_id in unique):
        return [unique[image_id] for image_id in sorted(unique)]
    return [unique[image_id] for image_id in sorted(unique, key=str)]


def _known(
    annotations: Sequence[Mapping[str, Any]], key: str, known: Callable[[Any], bool], what: str, source: str
) -> list[Mapping[str, Any]]:
    good = [entry for entry in annotations if known(entry[key])]
    if len(good) < len(annotations):
        bad = next(entry for entry in annotations if not known(entry[key]))
        logger.warning(
            "%s: %d annotations belong to %s and are left out (first: annotation %s, %s %s)",
            source, len(annotations) - len(good), what, bad.get("id"), key, bad[key],
        )
    return good


def _boxes(annotations: Sequence[Mapping[str, Any]], source: str) -> np.ndarray:
    rows = [entry.get("bbox") for entry in annotations]
    for entry, box in zip(annotations, rows, strict=True):
        if not isinstance(box, (list, tuple)) or len(box) != 4:
            raise DataError(
                f"{source}: annotation {entry.get('id')} of image {entry['image_id']} needs "
                f"bbox = [x, y, width, height], got {box!r}"
            )
    table = [[math.nan if value is None else value for value in box] for box in rows if box is not None]
    return np.array(table, dtype=np.float64).reshape(-1, 4)
