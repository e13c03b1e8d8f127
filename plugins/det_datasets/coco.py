"""CocoDataset: annotation files in COCO's format."""
from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from det_datasets.coco_meta import COCO_CLASSES, COCO_PALETTE
from det_datasets.coco_reader import CocoFile
from detcore.data.checks import box_defects
from detcore.data.dataset import BaseDetDataset
from detcore.data.metainfo import match_classes
from detcore.data.ragged import Ragged
from detcore.data.table import AnnotationTable
from detcore.errors import DataError

logger = logging.getLogger(__name__)

CONTRADICTIONS = ("image-id-duplicate", "category-id-duplicate", "annotation-id-duplicate")


class CocoDataset(BaseDetDataset):
    """A data set with a COCO annotation file; the arguments are those of `BaseDetDataset`.

    ``metainfo=dict(classes=...)`` names the classes to learn as the file spells them; a class's position is
    its label, whatever the order in the file. Files without ``annotations`` (test sets) give images without
    instances. Crowds get the ignore flag; no ``iscrowd`` means no crowd; annotation ids may start at 0.

    Left out, counted and reported once by reason (see `detcore.data.defects.CODES`): boxes that are not
    finite, inverted, empty, narrower or lower than one pixel, or outside their image; annotations of area 0,
    of an unknown image or category, or marked ``ignore``; malformed records. Images, categories or (unless
    `ANN_ID_UNIQUE` is off) annotations that share an id are an error.

    Attributes:
        cat_ids: The file's category id of each label.
        cat2label: Category id -> label.
    """

    METAINFO: ClassVar[Mapping[str, Any]] = {"classes": COCO_CLASSES, "palette": COCO_PALETTE}
    ANN_ID_UNIQUE: ClassVar[bool] = True
    MIN_BOX_SIDE: ClassVar[float] = 1.0

    cat_ids: list[int]
    cat2label: dict[int, int]

    def read_table(self) -> AnnotationTable:
        """The annotation file as columns; overridden `load_data_list` and `parse_data_info` are honoured."""
        if type(self).load_data_list is not CocoDataset.load_data_list or self._parses_itself():
            return super().read_table()
        file = CocoFile(self.ann_file, self.defects)
        self._take_categories(file.categories, file.has_annotations)
        return self._table_of(file)

    def load_data_list(self) -> list[dict[str, Any]]:
        """All image dicts; calls `parse_data_info` for each image where that is overridden."""
        if self._parses_itself():
            return list(self._parsed())
        file = CocoFile(self.ann_file, self.defects)
        self._take_categories(file.categories, file.has_annotations)
        table = self._table_of(file)
        infos = [table.image(row) for row in range(len(table))]
        return [{**info, "instances": list(info["instances"])} for info in infos]

    def parse_data_info(self, raw_data_info: dict[str, Any]) -> dict[str, Any] | list[dict[str, Any]]:
        """One image dict from ``raw_img_info`` (with ``img_id``) and ``raw_ann_info`` (its annotations)."""
        image, annotations = raw_data_info["raw_img_info"], raw_data_info["raw_ann_info"]
        instances = []
        for annotation in annotations:
            x, y, width, height = annotation["bbox"]
            label = self.cat2label.get(annotation["category_id"])
            if label is None or annotation.get("ignore", False) or annotation.get("area", 1) <= 0:
                continue
            instance = {
                "bbox": [x, y, x + width, y + height],
                "bbox_label": label,
                "ignore_flag": int(annotation.get("iscrowd", 0)),
            }
            if annotation.get("segmentation"):
                instance["mask"] = annotation["segmentation"]
            instances.append(instance)
        path = os.path.join(self._image_folder(), image["file_name"])  # noqa: PTH118
        return {
            "img_path": path, "img_id": image["img_id"], "height": image["height"], "width": image["width"],
            "instances": instances,
        }

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """As in the base, and ``seg_map_path`` (None without ``data_prefix['seg']``)."""
        info = super().get_data_info(idx)
        folder = self.data_prefix.get("seg")
        if "seg_map_path" not in info:
            info["seg_map_path"] = None
            if folder:
                name = Path(info["img_path"]).stem + self.seg_map_suffix
                info["seg_map_path"] = os.path.join(folder, name)  # noqa: PTH118
        return info

    def _image_folder(self) -> str:
        folder: str = self.data_prefix.get("img", self.data_prefix.get("img_path", ""))
        return folder

    # Categories.

    def _take_categories(self, categories: list[tuple[int, str]], has_annotations: bool) -> None:
        """Number the file's categories by the configured classes."""
        names = [name for _, name in categories]
        classes = self._metainfo.setdefault("classes", tuple(names))
        ids = [id_ for id_, _ in categories]
        doubled = sorted({id_ for id_ in ids if ids.count(id_) > 1})
        self.defects.add_rows("category-id-duplicate", doubled, _numbered("category"))
        self.defects.raise_for(CONTRADICTIONS)
        if self.missing_classes == "raise" and (categories or has_annotations):
            match_classes(classes, names, self.ann_file)
        by_name: dict[str, list[int]] = {}
        for id_, name in categories:
            by_name.setdefault(name, []).append(id_)
        self.cat2label = {id_: label for label, name in enumerate(classes) for id_ in by_name.get(name, ())}
        self.cat_ids = [by_name[name][0] for name in classes if name in by_name]
        self._known_ids = frozenset(ids)
        in_file_order = [name for name in by_name if name in classes]
        if in_file_order != [name for name in classes if name in by_name]:
            logger.warning(
                "%s lists its categories in another order than metainfo.classes; labels follow the latter "
                "(MMDetection numbers them by the file: weights trained there have their classes permuted)",
                self.ann_file,
            )

    # Columns.

    def _table_of(self, file: CocoFile) -> AnnotationTable:
        """Check, label and sort the annotations by image."""
        defects = self.defects
        order = np.argsort(file.image_ids, kind="stable")
        sorted_ids = file.image_ids[order]
        defects.add_rows("image-id-duplicate", _doubled(sorted_ids), _numbered("image"))
        if self.ANN_ID_UNIQUE:
            doubled = _doubled(np.sort(file.annotation_ids))
            defects.add_rows("annotation-id-duplicate", doubled, _numbered("annotation"))
        defects.raise_for(CONTRADICTIONS)
        place = np.searchsorted(sorted_ids, file.annotation_images)
        place = np.minimum(place, max(len(sorted_ids) - 1, 0))
        images = np.full(len(place), -1)
        if len(order):
            images = np.where(sorted_ids[place] == file.annotation_images, order[place], -1)
        boxes = np.concatenate([file.boxes[:, :2], file.boxes[:, :2] + file.boxes[:, 2:]], 1)
        labels = self._labels(file.annotation_categories)
        keep = self._usable(file, images, boxes, labels) & (labels >= 0)
        rows = np.flatnonzero(keep)
        rows = rows[np.argsort(images[rows], kind="stable")]
        first = np.zeros(len(file.image_ids) + 1, np.int64)
        np.cumsum(np.bincount(images[rows], minlength=len(file.image_ids)), out=first[1:])
        return AnnotationTable(
            paths=_joined(self._image_folder(), file.file_names),
            ids=file.image_ids,
            sizes=file.sizes,
            first=first,
            boxes=boxes[rows].astype(np.float32),
            labels=labels[rows].astype(np.int32),
            ignored=file.crowd[rows],
            masks=None if file.masks is None else file.masks.take(rows),
        )

    def _labels(self, categories: np.ndarray) -> np.ndarray:
        """int64 (A,): the label; -1 for categories not to learn, -2 for those that the file does not list."""
        known, inverse = np.unique(categories, return_inverse=True)
        of_known = [self.cat2label.get(id_, -1 if id_ in self._known_ids else -2) for id_ in known.tolist()]
        return np.array(of_known, np.int64)[inverse.reshape(-1)]

    def _usable(
        self, file: CocoFile, images: np.ndarray, boxes: np.ndarray, labels: np.ndarray
    ) -> np.ndarray:
        """bool (A,), annotations without a defect; the defects of the others are counted."""
        chosen = labels != -1
        sizes = file.sizes[images] if len(file.sizes) else np.zeros((len(images), 2), np.int32)
        found = {"image-missing": images < 0, "category-unknown": labels == -2}
        found.update(box_defects(boxes, sizes, self.MIN_BOX_SIDE))
        found["area-not-positive"] = file.areas <= 0
        found["annotation-ignored"] = file.ignore
        usable = np.ones(len(images), bool)
        for code, mask in found.items():
            rows = np.flatnonzero(mask & usable & chosen)
            self.defects.add_rows(code, rows.tolist(), _annotation(file, code))
            usable[rows] = False
        return usable

    # The slower way, for subclasses with their own `parse_data_info`.

    def _parses_itself(self) -> bool:
        return type(self).parse_data_info is not CocoDataset.parse_data_info

    def _infos(self) -> Iterator[dict[str, Any]]:
        if self._parses_itself() and type(self).load_data_list is CocoDataset.load_data_list:
            return self._parsed()
        return super()._infos()

    def _parsed(self) -> Iterator[dict[str, Any]]:
        try:
            content = json.loads(Path(self.ann_file).read_text(encoding="utf-8-sig"))
        except (OSError, json.JSONDecodeError) as error:
            raise DataError(f"cannot read the annotation file {self.ann_file}: {error}") from error
        categories = [(category["id"], category["name"]) for category in content.get("categories", ())]
        self._take_categories(categories, "annotations" in content)
        of_image: dict[Any, list[dict[str, Any]]] = {}
        for annotation in content.get("annotations", ()):
            of_image.setdefault(annotation["image_id"], []).append(annotation)
        for image in content["images"]:
            annotations = of_image.get(image["id"], [])
            raw = {"raw_img_info": {**image, "img_id": image["id"]}, "raw_ann_info": annotations}
            parsed = self.parse_data_info(raw)
            yield from parsed if isinstance(parsed, list) else [parsed]


def _doubled(ascending: np.ndarray) -> list[int]:
    """Values that occur more than once in a sorted int64 array."""
    doubled: list[int] = np.unique(ascending[1:][ascending[1:] == ascending[:-1]]).tolist()
    return doubled


def _numbered(what: str) -> Any:
    return lambda id_: f"{what} {id_}"


def _annotation(file: CocoFile, code: str) -> Any:
    """Describes an annotation by its row, with what its defect is about."""

    def describe(row: int) -> str:
        text = f"annotation {file.annotation_ids[row]}"
        if code == "image-missing":
            return f"{text} of image {file.annotation_images[row]}"
        if code == "category-unknown":
            return f"{text} of category {file.annotation_categories[row]}"
        return f"{text} {file.boxes[row].tolist()}" if code.startswith("box") else text

    return describe


def _joined(folder: str, names: Ragged) -> Ragged:
    """The file names with their folder before them."""
    if not folder:
        return names
    return Ragged.from_texts(os.path.join(folder, names.text(row)) for row in range(len(names)))  # noqa: PTH118
