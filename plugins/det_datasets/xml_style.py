"""Data sets with one XML file an image, as PASCAL VOC has them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from detcore.data.dataset import BaseDetDataset
from detcore.data.image_header import read_header
from detcore.errors import DataError

logger = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".JPG", ".JPEG", ".PNG")
HEADER = 1 << 16
"""Bytes of an image that are read to learn its size."""


class XMLDataset(BaseDetDataset):
    """A list of names, and for each name an image and an XML file.

    ``ann_file`` lists one name a line. The image of a name is ``{img_subdir}/{name}.jpg`` (or another usual
    ending), its annotations ``{ann_subdir}/{name}.xml``, both below ``data_prefix['sub_data_root']`` or,
    without that, ``data_root``.

    Corners in the files count from 1; here they count from 0. Objects marked as difficult get the ignore
    flag. Objects of other classes than ``metainfo['classes']`` are left out; unusable boxes are, too, counted
    by reason.

    Args:
        img_subdir: Folder of the images.
        ann_subdir: Folder of the XML files.
        **base: The arguments of `BaseDetDataset`.

    Raises:
        DataError: A file is missing or no such XML, or the classes are not told.
    """

    MIN_BOX_SIDE = 0.0
    ONE_BASED = True

    def __init__(self, img_subdir: str = "JPEGImages", ann_subdir: str = "Annotations", **base: Any) -> None:
        self.img_subdir, self.ann_subdir = img_subdir, ann_subdir
        super().__init__(**base)

    @property
    def sub_data_root(self) -> str:
        """The folder of both folders; ``data_root`` where ``data_prefix`` does not name one."""
        root: str = self.data_prefix.get("sub_data_root", self.data_root)
        return root

    @property
    def cat2label(self) -> dict[str, int]:
        """Name of a class -> its label."""
        return {name: label for label, name in enumerate(self._metainfo["classes"])}

    def load_data_list(self) -> list[dict[str, Any]]:
        """All image dicts."""
        return list(self._images())

    def parse_data_info(self, raw_data_info: dict[str, Any]) -> dict[str, Any]:
        """One image dict of ``img_id``, ``file_name`` and ``xml_path``."""
        path = raw_data_info["xml_path"]
        root = read_xml(path)
        image = Path(self.sub_data_root) / raw_data_info["file_name"]
        height, width = _size_of(root, image)
        found = [self._instance(element, path) for element in root.iter("object")]
        return {
            "img_path": str(image), "img_id": raw_data_info["img_id"], "xml_path": str(path),
            "height": height, "width": width, "instances": [each for each in found if each is not None],
        }

    def _infos(self) -> Iterator[dict[str, Any]]:
        overridden = type(self).load_data_list is not XMLDataset.load_data_list
        return super()._infos() if overridden else self._images()

    def _images(self) -> Iterator[dict[str, Any]]:
        if not self._metainfo.get("classes"):
            raise DataError(
                f"{type(self).__name__} needs its classes: metainfo=dict(classes=('first', 'second'))"
            )
        seen: Counter[str] = Counter()
        self._others: set[str] = set()
        for name in self._names():
            folder = Path(self.sub_data_root)
            info = self.parse_data_info(
                {
                    "img_id": name,
                    "file_name": f"{self.img_subdir}/{name}{self._suffix(folder / self.img_subdir / name)}",
                    "xml_path": folder / self.ann_subdir / f"{name}.xml",
                }
            )
            seen.update(each["bbox_label"] for each in info["instances"])
            yield info
        self._report_classes(seen)

    def _names(self) -> list[str]:
        try:
            lines = Path(self.ann_file).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read {self.ann_file}, the list of images: {error}") from error
        return [line.split()[0] for line in lines if line.strip()]

    @staticmethod
    def _suffix(stem: Path) -> str:
        """The ending of the image that is there; of none of them, the usual one."""
        return next((each for each in SUFFIXES if stem.with_name(stem.name + each).exists()), SUFFIXES[0])

    def _instance(self, element: ElementTree.Element, path: Any) -> dict[str, Any] | None:
        name = element.findtext("name", "").strip()
        label = self.cat2label.get(name)
        if label is None:
            self._others.add(name)
            return None
        difficult = element.findtext("difficult", "0").strip()
        return {
            "bbox": _corners(element, path, 1.0 if self.ONE_BASED else 0.0),
            "bbox_label": label,
            "ignore_flag": int(difficult not in ("", "0")),
        }

    def _report_classes(self, seen: Mapping[Any, int]) -> None:
        absent = [name for name, label in self.cat2label.items() if not seen[label]]
        if absent and self._others:
            logger.warning(
                "%s has no object of %s; it has objects of other names: %s",
                self.ann_file, ", ".join(absent), ", ".join(sorted(self._others)),
            )  # fmt: skip


def read_xml(path: Any) -> ElementTree.Element:
    """The root of an XML file without document type.

    Raises:
        DataError: It is not there, is no XML, or has a document type: what that can declare (entities within
            entities, other files) has no place in annotations.
    """
    try:
        content = Path(path).read_bytes()
        _refuse_document_types(content)
        return ElementTree.fromstring(content)  # no entities are left that could expand
    except OSError as error:
        raise DataError(f"cannot read the annotations {path}: {error}") from error
    except (ElementTree.ParseError, expat.ExpatError, ValueError) as error:
        raise DataError(f"{path} is no XML file of annotations: {error}") from error


def _refuse_document_types(content: bytes) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("it has a document type (<!DOCTYPE ...>), which is refused")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.Parse(content, True)


def _corners(element: ElementTree.Element, path: Any, first: float) -> list[float] | None:
    """xyxy, counted from 0; None where the box is missing."""
    box = element.find("bndbox")
    if box is None:
        return None
    texts = [box.findtext(name, "").strip() for name in ("xmin", "ymin", "xmax", "ymax")]
    try:
        return [int(float(text)) - first for text in texts]
    except (ValueError, OverflowError) as error:
        shown = element.findtext("name", "").strip()
        raise DataError(f"{path}: an object '{shown}' has the corners {texts}: {error}") from error


def _size_of(root: ElementTree.Element, image: Path) -> tuple[int | None, int | None]:
    """Height and width that the file tells, else those of the image, else None."""
    told = [root.findtext(f"size/{name}", "").strip() for name in ("height", "width")]
    if all(text.isdigit() and int(text) > 0 for text in told):
        return int(told[0]), int(told[1])
    try:
        with image.open("rb") as file:
            header = read_header(file.read(HEADER))
    except OSError:
        return None, None
    return (None, None) if header is None else (header.height, header.width)
