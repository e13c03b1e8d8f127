"""What unlabelled images really show, for experiments in which that is known."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detcore.errors import ConfigError, DataError
from detcore.registry import DATASETS
from detcore.structures import DetDataSample, InstanceData
from detcore.structures.bbox import bbox_overlaps

IOU = 0.5
"""Overlap from which two boxes of a class are of one object."""


class UnlabeledTruth:
    """Annotations of unlabelled images, by the images' ids.

    Args:
        given: An annotation file in COCO's format, or the config of a data set.
        classes: Names of the detector's classes, for a file.

    Raises:
        ConfigError: It is neither, or a file and the classes are not known.
    """

    def __init__(self, given: Any, classes: Sequence[str] | None) -> None:
        if isinstance(given, (str, Path)):
            if not classes:
                raise ConfigError(
                    "semi_train_cfg.unlabeled_truth is a file, but the training data do not tell their "
                    "classes: write metainfo=dict(classes=...) there"
                )
            given = {
                "type": "datasets.CocoDataset",
                "ann_file": str(given),
                "metainfo": {"classes": tuple(classes)},
                "test_mode": True,
            }
        if isinstance(given, Mapping):
            given = DATASETS.build(dict(given), path="semi_train_cfg.unlabeled_truth")
        if not hasattr(given, "get_data_info"):
            raise ConfigError(
                "semi_train_cfg.unlabeled_truth is an annotation file or the config of a data set, got "
                f"{type(given).__name__}"
            )
        self._dataset = given
        self._rows = {self._dataset.get_data_info(row)["img_id"]: row for row in range(len(given))}

    def of(self, sample: DetDataSample) -> InstanceData:
        """``bboxes`` and ``labels`` of a sample's image, in pixels of the original image.

        Raises:
            DataError: There are none of this image.
        """
        image = sample.metainfo.get("img_id")
        if image not in self._rows:
            raise DataError(
                f"semi_train_cfg.unlabeled_truth has no image {image!r} "
                f"({sample.metainfo.get('img_path') or 'no img_path'}); is it the truth of these images, and "
                "do the pipelines keep img_id?"
            )
        found = [
            each
            for each in self._dataset.get_data_info(self._rows[image])["instances"]
            if not each.get("ignore_flag", 0)
        ]
        return InstanceData(
            bboxes=torch.tensor([each["bbox"] for each in found], dtype=torch.float32).view(-1, 4),
            labels=torch.tensor([each["bbox_label"] for each in found], dtype=torch.long),
        )


def matches(found: InstanceData, wanted: InstanceData, iou: float = IOU) -> int:
    """How many boxes have a partner of the same class that overlaps them enough; none serves twice.

    Boxes choose in the order of their scores, each the free partner that it overlaps most.

    Args:
        found: ``bboxes``, ``labels``, ``scores``.
        wanted: ``bboxes``, ``labels``.
        iou: Least overlap.
    """
    if not len(found) or not len(wanted):
        return 0
    order = found.scores.argsort(descending=True, stable=True)
    overlaps = bbox_overlaps(found.bboxes[order].cpu().float(), wanted.bboxes.cpu().float())
    assert isinstance(overlaps, Tensor)
    same = found.labels[order].cpu()[:, None] == wanted.labels.cpu()
    overlaps = torch.where(same, overlaps, -1.0)
    right = 0
    for row in overlaps:
        best, partner = row.max(0)
        if best >= iou:
            overlaps[:, partner] = -1.0
            right += 1
    return right
