"""The annotations of a data set as flat arrays: small, shared between workers, fast to cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from detcore.data.jsonable import from_json_bytes
from detcore.data.ragged import Ragged, flat_positions
from detcore.data.shared import arrays_of, share_with_worker

NO_MASK, POLYGONS, RLE = 0, 1, 2


@dataclass
class MaskColumn:
    """Segmentations of ``N`` instances.

    Attributes:
        kinds: uint8 (N,), one of `NO_MASK`, `POLYGONS`, `RLE`.
        parts: int64 (N + 1,); instance ``i`` has the polygons ``parts[i]:parts[i + 1]``.
        points: One float32 list ``x1, y1, x2, y2, ...`` (absolute pixels) a polygon.
        encodings: One JSON document a instance; empty where the kind is not `RLE`.
    """

    kinds: np.ndarray
    parts: np.ndarray
    points: Ragged
    encodings: Ragged

    def __getitem__(self, row: int) -> list[np.ndarray] | dict[str, Any] | None:
        kind = self.kinds[row]
        if kind == POLYGONS:
            # Copied: a transform that changes points in place must not reach the table.
            return [self.points[part].copy() for part in range(self.parts[row], self.parts[row + 1])]
        if kind == RLE:
            decoded: dict[str, Any] = from_json_bytes(self.encodings[row].tobytes())
            return decoded
        return None

    def take(self, rows: np.ndarray) -> MaskColumn:
        """The masks of some instances, copied; ``rows`` is int64 (R,)."""
        polygons, parts = flat_positions(self.parts, rows)
        return MaskColumn(self.kinds[rows], parts, self.points.take(polygons), self.encodings.take(rows))


@dataclass
class AnnotationTable:
    """``I`` images and their ``N`` instances, column by column.

    Attributes:
        paths: Path of each image, UTF-8.
        ids: int64 (I,), or a ragged column of JSON documents where ids are no integers.
        sizes: int32 (I, 2), height and width in pixels; -1 where unknown.
        first: int64 (I + 1,); image ``i`` has the instances ``first[i]:first[i + 1]``.
        boxes: float32 (N, 4), xyxy, absolute pixels.
        labels: int32 (N,).
        ignored: bool (N,), crowd, difficult or otherwise not to be learned.
        masks: Segmentations, or None where there are none at all.
        image_extras: JSON object of each image's other keys, or None.
        instance_extras: JSON object of each instance's other keys, or None.
    """

    paths: Ragged
    ids: np.ndarray | Ragged
    sizes: np.ndarray
    first: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    masks: MaskColumn | None = None
    image_extras: Ragged | None = None
    instance_extras: Ragged | None = None

    def __len__(self) -> int:
        return len(self.sizes)

    def image_id(self, row: int) -> Any:
        """The id that the annotation file gives the image."""
        if isinstance(self.ids, Ragged):
            return from_json_bytes(self.ids[row].tobytes())
        return int(self.ids[row])

    def image(self, row: int) -> dict[str, Any]:
        """A fresh dict ``img_path, img_id, height, width, instances`` and the image's other keys."""
        info: dict[str, Any] = {"img_path": self.paths.text(row), "img_id": self.image_id(row)}
        height, width = self.sizes[row].tolist()
        if height >= 0:
            info["height"], info["width"] = height, width
        if self.image_extras is not None:
            info.update(from_json_bytes(self.image_extras[row].tobytes()))
        info["instances"] = Instances(self, int(self.first[row]), int(self.first[row + 1]))
        return info

    def counts(self) -> np.ndarray:
        """int64 (I,), the number of instances of each image."""
        return np.diff(self.first)

    def take(self, rows: np.ndarray) -> AnnotationTable:
        """A table of some images, copied; ``rows`` is int64 (R,)."""
        rows = np.asarray(rows, np.int64)
        instances, first = flat_positions(self.first, rows)
        return AnnotationTable(
            paths=self.paths.take(rows),
            ids=self.ids.take(rows) if isinstance(self.ids, Ragged) else self.ids[rows],
            sizes=self.sizes[rows],
            first=first,
            boxes=self.boxes[instances],
            labels=self.labels[instances],
            ignored=self.ignored[instances],
            masks=None if self.masks is None else self.masks.take(instances),
            image_extras=None if self.image_extras is None else self.image_extras.take(rows),
            instance_extras=None if self.instance_extras is None else self.instance_extras.take(instances),
        )

    def take_instances(self, keep: np.ndarray) -> AnnotationTable:
        """The same images with some instances only; ``keep`` is bool (N,)."""
        rows = np.flatnonzero(keep)
        kept_before = np.concatenate([[0], np.cumsum(keep)]).astype(np.int64)
        return replace(
            self,
            first=kept_before[self.first],
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            ignored=self.ignored[rows],
            masks=None if self.masks is None else self.masks.take(rows),
            instance_extras=None if self.instance_extras is None else self.instance_extras.take(rows),
        )

    @property
    def nbytes(self) -> int:
        """Size of all arrays in bytes."""
        return sum(array.nbytes for array in arrays_of(self))

    def __reduce__(self) -> tuple[Any, ...]:
        """While a worker is started with `spawn`, hand over the arrays' memory instead of a copy."""
        columns = tuple(getattr(self, field.name) for field in fields(self))
        return share_with_worker(self) or (type(self), columns)


class Instances(Sequence[dict[str, Any]]):
    """The instances of one image: a list of dicts for those who read it so, arrays for those in a hurry.

    Each element is a dict ``bbox`` (xyxy, absolute pixels), ``bbox_label``, ``ignore_flag``, ``mask``
    where there is one, and the instance's other keys.
    """

    def __init__(self, table: AnnotationTable, start: int, stop: int) -> None:
        self._table, self._start, self._stop = table, start, stop

    @property
    def boxes(self) -> np.ndarray:
        """float32 (n, 4), xyxy, absolute pixels; a view of the table, to be copied before changes."""
        return self._table.boxes[self._start : self._stop]

    @property
    def labels(self) -> np.ndarray:
        """int64 (n,)."""
        return self._table.labels[self._start : self._stop].astype(np.int64)

    @property
    def ignored(self) -> np.ndarray:
        """bool (n,); a view of the table."""
        return self._table.ignored[self._start : self._stop]

    def masks(self) -> list[list[np.ndarray] | dict[str, Any] | None]:
        """Polygons, RLE dict or None of each instance."""
        masks = self._table.masks
        if masks is None:
            return [None] * len(self)
        return [masks[row] for row in range(self._start, self._stop)]

    def __len__(self) -> int:
        return self._stop - self._start

    def _instance(self, row: int) -> dict[str, Any]:
        table = self._table
        instance: dict[str, Any] = {
            "bbox": table.boxes[row].tolist(),
            "bbox_label": int(table.labels[row]),
            "ignore_flag": int(table.ignored[row]),
        }
        mask = None if table.masks is None else table.masks[row]
        if mask is not None:
            instance["mask"] = [part.tolist() for part in mask] if isinstance(mask, list) else mask
        if table.instance_extras is not None:
            instance.update(from_json_bytes(table.instance_extras[row].tobytes()))
        return instance

    def __getitem__(self, index: Any) -> Any:
        rows = range(self._start, self._stop)[index]
        if isinstance(rows, range):
            return [self._instance(row) for row in rows]
        return self._instance(rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self._instance(row) for row in range(self._start, self._stop))

    def __deepcopy__(self, memo: dict[int, Any]) -> Instances:
        """Itself: it cannot be changed, and a copy of ``results`` must not copy the whole table."""
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))
