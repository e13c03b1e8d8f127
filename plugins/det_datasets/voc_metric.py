"""Mean average precision by the rules of PASCAL VOC."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from detcore.errors import ConfigError, DataError
from detcore.evaluation import Metric
from detcore.evaluation.boxes import eval_recalls
from detcore.evaluation.mean_ap import eval_map

logger = logging.getLogger(__name__)

METRICS = ("mAP", "recall")
MODES = ("11points", "area")


class VOCMetric(Metric):
    """Mean AP (or recall of boxes of any class) on a data set of VOC's kind.

    Figures are ``pascal_voc/mAP`` (the mean over the overlaps) and ``pascal_voc/AP50`` (of each overlap), or
    ``pascal_voc/AR@100`` and so on. The truth comes from the data samples; difficult objects, those with the
    ignore flag, count neither as found nor as missed. Sides of boxes count their last pixel, as in VOC.

    Args:
        iou_thrs: Overlap from which a detection counts, or several.
        scale_ranges: Least and greatest side of the objects to look at; the figures are those of the first
            range then, and all are logged.
        metric: ``'mAP'`` or ``'recall'``.
        proposal_nums: Numbers of boxes an image that recall is measured at.
        eval_mode: ``'11points'`` (VOC2007) or ``'area'`` (since VOC2010).
        collect_device: See `Metric`.
        prefix: Put before the names, ``pascal_voc`` if None.

    Raises:
        ConfigError: An argument is unusable.
    """

    default_prefix: ClassVar[str | None] = "pascal_voc"

    def __init__(
        self,
        iou_thrs: float | Sequence[float] = 0.5,
        scale_ranges: Sequence[tuple[float, float]] | None = None,
        metric: str = "mAP",
        proposal_nums: Sequence[int] = (100, 300, 1000),
        eval_mode: str = "11points",
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.iou_thrs = [iou_thrs] if isinstance(iou_thrs, (int, float)) else list(iou_thrs)
        if not self.iou_thrs or not all(0 < each <= 1 for each in self.iou_thrs):
            raise ConfigError(f"iou_thrs are overlaps, above 0 and up to 1, got {iou_thrs}")
        names = [metric] if isinstance(metric, str) else list(metric)
        if len(names) != 1 or names[0] not in METRICS:
            raise ConfigError(f"VOCMetric measures one of {', '.join(METRICS)}, got {metric!r}")
        if eval_mode not in MODES:
            raise ConfigError(f"eval_mode must be one of {', '.join(MODES)}, got {eval_mode!r}")
        self.metric, self.eval_mode = names[0], eval_mode
        self.scale_ranges, self.proposal_nums = scale_ranges, list(proposal_nums)

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Keep truth and predictions of a batch as arrays, one entry an image."""
        for sample in data_samples:
            predicted = sample["pred_instances"]
            boxes, scores = _array(predicted, "bboxes"), _array(predicted, "scores")
            self.results.append(
                {
                    "img_id": sample.get("img_id"),
                    "truth": _truth_of(sample),
                    "found": np.concatenate([boxes.reshape(-1, 4), scores.reshape(-1, 1)], 1),
                    "labels": _array(predicted, "labels").astype(int),
                }
            )

    def identify(self, result: dict[str, Any]) -> Hashable | None:
        """The image's id: an image that a sampler gave to two ranks counts once."""
        identity: Hashable = result["img_id"]
        return identity

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """``mAP`` and ``AP50``, or ``AR@100``."""
        return self._recalls(results) if self.metric == "recall" else self._mean_ap(results)

    def _mean_ap(self, results: list[Any]) -> dict[str, float]:
        classes = (self.dataset_meta or {}).get("classes")
        if not classes:
            raise ConfigError("VOCMetric needs the data set's classes: set dataset_meta['classes']")
        year = (self.dataset_meta or {}).get("dataset_type")
        if year == "VOC2007" and self.eval_mode != "11points":
            logger.warning("VOC2007 is measured at 11 points; eval_mode='%s' gives another figure", "area")
        detections = [
            [each["found"][each["labels"] == label] for label in range(len(classes))] for each in results
        ]
        truth = [each["truth"] for each in results]
        figures: dict[str, float] = {}
        for threshold in self.iou_thrs:
            mean, _ = eval_map(
                detections, truth, self.scale_ranges, threshold, logger, classes, self.eval_mode,
                use_legacy_coordinate=True,
            )  # fmt: skip
            figures[f"AP{round(threshold * 100):02d}"] = round(float(np.atleast_1d(mean)[0]), 3)
        return {"mAP": sum(figures.values()) / len(figures), **figures}

    def _recalls(self, results: list[Any]) -> dict[str, float]:
        recalls = eval_recalls(
            [each["truth"]["bboxes"] for each in results], [each["found"] for each in results],
            self.proposal_nums, self.iou_thrs, logger, use_legacy_coordinate=True,
        )  # fmt: skip
        figures = {}
        for row, number in enumerate(self.proposal_nums):
            for column, threshold in enumerate(self.iou_thrs):
                figures[f"recall@{number}@{threshold}"] = float(recalls[row, column])
            figures[f"AR@{number}"] = float(recalls[row].mean())
        return figures


def _array(instances: Any, name: str) -> np.ndarray:
    value = instances[name]
    return np.asarray(value.detach().float().cpu() if hasattr(value, "detach") else value)


def _truth_of(sample: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Boxes and labels of an image's objects, those with the ignore flag apart.

    Raises:
        DataError: The sample has neither ``instances`` nor ``gt_instances``.
    """
    if sample.get("instances") is not None:
        return _split(sample["instances"])
    if "gt_instances" not in sample:
        raise DataError(
            f"image {sample.get('img_id')} comes without truth: let the test pipeline have LoadAnnotations "
            "before PackDetInputs, without a Resize behind it"
        )
    names = ("bboxes", "labels")
    found = {name: _array(sample["gt_instances"], name) for name in names}
    ignored = sample.get("ignored_instances") or {}
    return {**found, **{f"{name}_ignore": _array(ignored, name) for name in names if name in ignored}}


def _split(instances: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    parts: dict[str, np.ndarray] = {}
    for suffix, flag in (("", 0), ("_ignore", 1)):
        own = [each for each in instances if int(bool(each.get("ignore_flag", 0))) == flag]
        parts[f"bboxes{suffix}"] = np.array([each["bbox"] for each in own], float).reshape(-1, 4)
        parts[f"labels{suffix}"] = np.array([each["bbox_label"] for each in own], int)
    return parts
