"""Reads COCO annotation files into columns, one record at a time."""
from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np

from detcore.data.build import MaskBuilder
from detcore.data.defects import DefectCounter
from detcore.data.json_stream import stream_members
from detcore.data.ragged import Ragged
from detcore.data.table import MaskColumn
from detcore.errors import DataError

LISTS = ("images", "annotations", "categories")
INT64 = 2**63


class CocoFile:
    """The columns of a COCO file, unchecked beyond types.

    Args:
        path: The file.
        defects: Counts records that lack what every record needs; these are left out.

    Attributes:
        image_ids: int64 (I,).
        file_names: One a image.
        sizes: int32 (I, 2), height and width; -1 where the file does not tell.
        categories: ``(id, name)`` in the file's order.
        annotation_ids: int64 (A,).
        annotation_images: int64 (A,), image ids.
        annotation_categories: int64 (A,), category ids.
        boxes: float64 (A, 4), xywh as in the file.
        areas: float64 (A,); NaN where the file does not tell.
        crowd: bool (A,).
        ignore: bool (A,), the key ``ignore`` of some data sets.
        masks: Segmentations, or None where there are none.
        has_annotations: Whether the file has the key ``annotations`` at all.
    """

    def __init__(self, path: str, defects: DefectCounter) -> None:
        self.path, self._defects = path, defects
        self.categories: list[tuple[int, str]] = []
        self._image_ids, self._sizes, self._names = array("q"), array("i"), bytearray()
        self._name_ends = array("q", [0])
        self._ids, self._images, self._labels = array("q"), array("q"), array("q")
        self._boxes, self._areas = array("d"), array("d")
        self._crowd, self._ignore, self._mask_builder = bytearray(), bytearray(), MaskBuilder()
        self.has_annotations = False
        seen = set()
        take = {"images": self._image, "annotations": self._annotation, "categories": self._category}
        for key, value in stream_members(path, LISTS):
            seen.add(key)
            if key in take and value is not None:
                if not isinstance(value, Mapping):
                    raise DataError(f"{path}: an entry of {key} is no object: {str(value)[:80]!r}")
                take[key](value)
        if "images" not in seen:
            raise DataError(
                f"{path}: no `images`; a COCO file is an object with images, annotations and categories, "
                f"this one has {', '.join(sorted(seen)) or 'nothing'}"
            )
        self.has_annotations = "annotations" in seen
        self._finish()

    def _finish(self) -> None:
        self.image_ids = np.array(self._image_ids, np.int64)
        self.sizes = np.array(self._sizes, np.int32).reshape(-1, 2)
        names = np.frombuffer(bytes(self._names), np.uint8)
        self.file_names = Ragged(names, np.array(self._name_ends, np.int64))
        self.annotation_ids = np.array(self._ids, np.int64)
        self.annotation_images = np.array(self._images, np.int64)
        self.annotation_categories = np.array(self._labels, np.int64)
        self.boxes = np.array(self._boxes, np.float64).reshape(-1, 4)
        self.areas = np.array(self._areas, np.float64)
        self.crowd = np.frombuffer(bytes(self._crowd), np.uint8).astype(bool)
        self.ignore = np.frombuffer(bytes(self._ignore), np.uint8).astype(bool)
        self.masks: MaskColumn | None = self._mask_builder.column()

    def _category(self, record: Mapping[str, Any]) -> None:
        id_, name = record.get("id"), record.get("name")
        if not _is_id(id_) or not isinstance(name, str):
            raise DataError(f"{self.path}: a category needs a whole number `id` and a `name`: {dict(record)}")
        self.categories.append((int(id_), name))  # type: ignore[arg-type]

    def _image(self, record: Mapping[str, Any]) -> None:
        id_, name = record.get("id"), record.get("file_name")
        url = record.get("coco_url")
        if not isinstance(name, str) and isinstance(url, str):
            # LVIS names no file, only its address: the folder and the file below it.
            name = "/".join(url.split("/")[-2:])
        height, width = record.get("height"), record.get("width")
        sound = _is_id(id_) and isinstance(name, str) and all(_is_side(side) for side in (height, width))
        if not sound:
            self._defects.add("image-malformed", f"image {_short(record)}")
            return
        self._image_ids.append(int(id_))  # type: ignore[arg-type]
        self._names += name.encode("utf-8", "surrogateescape")  # type: ignore[union-attr]
        self._name_ends.append(len(self._names))
        self._sizes.append(-1 if height is None else int(height))
        self._sizes.append(-1 if width is None else int(width))

    def _annotation(self, record: Mapping[str, Any]) -> None:
        id_ = record.get("id", len(self._ids))
        image, category = record.get("image_id"), record.get("category_id")
        if not (_is_id(id_) and _is_id(image) and _is_id(category)):
            self._defects.add("annotation-malformed", f"annotation {_short(record)}")
            return
        box = record.get("bbox")
        if box is None:
            self._defects.add("box-missing", f"annotation {id_}")
            return
        try:
            numbers = array("d", box)
            area = float(record.get("area", float("nan")))
        except (TypeError, ValueError):
            numbers, area = array("d"), 0.0
        if len(numbers) != 4:
            self._defects.add("annotation-malformed", f"annotation {id_}")
            return
        self._ids.append(int(id_))
        self._images.append(int(image))  # type: ignore[arg-type]
        self._labels.append(int(category))  # type: ignore[arg-type]
        self._boxes.extend(numbers)
        self._areas.append(area)
        self._crowd.append(bool(record.get("iscrowd", 0)))
        self._ignore.append(bool(record.get("ignore", 0)))
        if not self._mask_builder.add(record.get("segmentation")):
            self._defects.add("mask-malformed", f"annotation {id_}")


def _is_id(value: object) -> bool:
    """Whether a value is a whole number that fits 64 bits; 3.0 counts as 3."""
    if isinstance(value, float):
        return value.is_integer() and abs(value) < 2**53
    return isinstance(value, int) and not isinstance(value, bool) and -INT64 <= value < INT64


def _is_side(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and 0 < value < 2**31 and value == int(value))


def _short(record: Mapping[str, Any]) -> str:
    """A record in few characters, for messages."""
    telling = ("id", "image_id", "category_id", "file_name")
    kept = {key: record[key] for key in telling if key in record}
    return str(kept or dict(record))[:120]
