"""Packs annotations, one dict or one column at a time, into an `AnnotationTable`."""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detcore.data.defects import DefectCounter
from detcore.data.jsonable import to_json_bytes
from detcore.data.ragged import Ragged
from detcore.data.table import NO_MASK, POLYGONS, RLE, AnnotationTable, MaskColumn
from detcore.errors import DataError

IMAGE_KEYS = frozenset({"img_path", "img_id", "height", "width", "instances", "sample_idx"})
INSTANCE_KEYS = frozenset({"bbox", "bbox_label", "ignore_flag", "mask"})


class MaskBuilder:
    """Collects one segmentation an instance."""

    def __init__(self) -> None:
        self.kinds = bytearray()
        self.parts = array("q", [0])
        self.points = array("f")
        self.point_ends = array("q", [0])
        self.encodings = bytearray()
        self.encoding_ends = array("q", [0])

    def add(self, segmentation: object) -> bool:
        """Take polygons ``[[x1, y1, ...], ...]``, an RLE dict, or nothing.

        Returns:
            False where it is neither: the instance then has no mask. Polygons of fewer than 3 points
            beside sound ones are left out.
        """
        kind, sound = NO_MASK, True
        if isinstance(segmentation, Mapping):
            encoded = _encode_rle(segmentation)
            sound = encoded is not None
            if encoded is not None:
                kind = RLE
                self.encodings += encoded
        elif isinstance(segmentation, (list, tuple)):
            if segmentation:
                kind = POLYGONS if self._add_polygons(segmentation) else NO_MASK
                sound = kind == POLYGONS
        else:
            sound = segmentation is None
        self.kinds.append(kind)
        self.parts.append(len(self.point_ends) - 1)
        self.encoding_ends.append(len(self.encodings))
        return sound

    def _add_polygons(self, polygons: Sequence[Any]) -> bool:
        added = False
        for polygon in polygons:
            try:
                numbers = array("f", polygon)
            except (TypeError, OverflowError):
                continue
            if len(numbers) >= 6 and len(numbers) % 2 == 0 and math.isfinite(sum(numbers)):
                self.points.extend(numbers)
                self.point_ends.append(len(self.points))
                added = True
        return added

    def column(self) -> MaskColumn | None:
        """The masks so far, or None where no instance has one."""
        kinds = np.frombuffer(bytes(self.kinds), np.uint8)
        if not kinds.any():
            return None
        return MaskColumn(
            kinds=kinds,
            parts=np.array(self.parts, np.int64),
            points=Ragged(np.array(self.points, np.float32), np.array(self.point_ends, np.int64)),
            encodings=Ragged(
                np.frombuffer(bytes(self.encodings), np.uint8), np.array(self.encoding_ends, np.int64)
            ),
        )


def _encode_rle(rle: Mapping[Any, Any]) -> bytes | None:
    """JSON bytes of a COCO run-length encoding, or None where it is no such thing."""
    size, counts = rle.get("size"), rle.get("counts")
    if isinstance(counts, bytes):
        counts = counts.decode("ascii", "replace")
    if not isinstance(counts, (str, list)) or not isinstance(size, (list, tuple)) or len(size) != 2:
        return None
    if not all(isinstance(side, int) and side >= 0 for side in size):
        return None
    if isinstance(counts, list) and not all(isinstance(run, int) and run >= 0 for run in counts):
        return None
    return to_json_bytes({"size": list(size), "counts": counts}, "mask")


class TableBuilder:
    """Collects the manual's image dicts (``img_path, height, width, instances, ...``).

    Args:
        defects: Counts the instances that cannot be used and are left out.
    """

    def __init__(self, defects: DefectCounter) -> None:
        self.defects = defects
        self.paths: list[str] = []
        self.ids: list[Any] = []
        self.sizes = array("i")
        self.first = array("q", [0])
        self.boxes = array("d")
        self.labels = array("q")
        self.ignored = bytearray()
        self.masks = MaskBuilder()
        self.image_extras: list[bytes] = []
        self.instance_extras: list[bytes] = []

    def add(self, info: Mapping[str, Any]) -> None:
        """Take one image's dict.

        Raises:
            DataError: It has no ``img_path``, or holds a key that is no plain data.
        """
        index = len(self.paths)
        path = info.get("img_path")
        if not isinstance(path, (str, os.PathLike)):
            raise DataError(
                f"{self.defects.source}: image {index} needs `img_path`, a string; "
                f"its keys are {sorted(info)}"
            )
        self.paths.append(os.fspath(path))
        self.ids.append(info.get("img_id", index))
        height, width = info.get("height"), info.get("width")
        known = height is not None and width is not None
        self.sizes.extend((int(height), int(width)) if known else (-1, -1))  # type: ignore[arg-type]
        extras = {key: value for key, value in info.items() if key not in IMAGE_KEYS}
        self.image_extras.append(
            to_json_bytes(extras, f"{self.defects.source}: image {path}") if extras else b"{}"
        )
        for number, instance in enumerate(info.get("instances") or ()):
            self._add_instance(instance, f"{path} instance {number}")
        self.first.append(len(self.labels))

    def _add_instance(self, instance: Mapping[str, Any], where: str) -> None:
        box = instance.get("bbox")
        if box is None:
            self.defects.add("box-missing", where)
            return
        try:
            numbers = array("d", box)
            label = int(instance["bbox_label"])
        except (KeyError, TypeError, ValueError):
            numbers, label = array("d"), 0
        if len(numbers) != 4:
            self.defects.add("annotation-malformed", where)
            return
        self.boxes.extend(numbers)
        self.labels.append(label)
        self.ignored.append(bool(instance.get("ignore_flag", 0)))
        if not self.masks.add(instance.get("mask")):
            self.defects.add("mask-malformed", where)
        extras = {key: value for key, value in instance.items() if key not in INSTANCE_KEYS}
        self.instance_extras.append(to_json_bytes(extras, where) if extras else b"{}")

    def build(self) -> AnnotationTable:
        """The table of everything taken so far; boxes are not checked yet."""
        return AnnotationTable(
            paths=Ragged.from_texts(self.paths),
            ids=id_column(self.ids, self.defects.source),
            sizes=np.array(self.sizes, np.int32).reshape(-1, 2),
            first=np.array(self.first, np.int64),
            boxes=np.array(self.boxes, np.float32).reshape(-1, 4),
            labels=np.array(self.labels, np.int32),
            ignored=np.frombuffer(bytes(self.ignored), np.uint8).astype(bool),
            masks=self.masks.column(),
            image_extras=_extras_column(self.image_extras),
            instance_extras=_extras_column(self.instance_extras),
        )


def id_column(ids: list[Any], source: str) -> np.ndarray | Ragged:
    """int64 (I,) where every id is an integer, else one JSON document an id."""
    if all(isinstance(id_, (int, np.integer)) and -(2**63) <= id_ < 2**63 for id_ in ids):
        return np.array(ids, np.int64).reshape(-1)
    return Ragged.from_bytes(to_json_bytes(id_, f"{source}: image id") for id_ in ids)


def _extras_column(extras: list[bytes]) -> Ragged | None:
    return Ragged.from_bytes(extras) if any(item != b"{}" for item in extras) else None
