"""PASCAL VOC (Everingham et al., IJCV 2010)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from det_datasets.xml_style import XMLDataset

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
VOC_PALETTE = [
    (106, 0, 228), (119, 11, 32), (165, 42, 42), (0, 0, 192), (197, 226, 255), (0, 60, 100), (0, 0, 142),
    (255, 77, 255), (153, 69, 1), (120, 166, 157), (0, 182, 199), (0, 226, 252), (182, 182, 255), (0, 0, 230),
    (220, 20, 60), (163, 255, 0), (0, 82, 0), (3, 95, 161), (0, 80, 100), (183, 130, 88),
]  # fmt: skip
YEARS = ("VOC2007", "VOC2012")


class VOCDataset(XMLDataset):
    """The 20 classes of VOC; arguments as of `XMLDataset`.

    ``metainfo['dataset_type']`` becomes ``'VOC2007'`` or ``'VOC2012'`` where that is part of
    ``data_prefix['sub_data_root']``, for the metric, whose rule changed in between.
    """

    METAINFO: ClassVar[Mapping[str, Any]] = {"classes": VOC_CLASSES, "palette": VOC_PALETTE}

    def __init__(self, **base: Any) -> None:
        super().__init__(**base)
        self._metainfo["dataset_type"] = next((year for year in YEARS if year in self.sub_data_root), None)
