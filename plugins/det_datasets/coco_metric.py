"""Average precision and recall by the rules of COCO."""
import dataclasses
import difflib
import logging
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import numpy as np

from det_datasets.coco_eval_backends import EvalSettings, evaluate_curves, resolve_backend
from det_datasets.coco_figures import all_figures, class_figures, class_table, figure_names, summary_lines
from det_datasets.coco_results import entry_of, table_of, truth_of_results, write_results
from det_datasets.coco_truth import CocoTruth, Detections, read_truth, rows_of_images
from detcore.errors import ConfigError, DataError
from detcore.evaluation import Metric
from detcore.evaluation.boxes import eval_recalls

logger = logging.getLogger(__name__)

METRICS = ("bbox", "segm", "proposal", "proposal_fast")


class CocoMetric(Metric):
    """AP and AR of boxes, masks or proposals.

    Figures are named ``coco/bbox_mAP``, ``coco/bbox_mAP_50``, ``_75``, ``_s``, ``_m``, ``_l``,
    ``coco/bbox_AR@100``, ..., ``coco/bbox_AR_s@1000``, ...; those of proposals ``coco/AR@100`` and so on;
    with `classwise` also ``coco/<class>_precision``. A figure with nothing to measure is -1.

    All images of `ann_file` count. Where some were not predicted, their objects are missed, and a warning
    says so.

    Args:
        ann_file: COCO json with the truth. None takes it from the data samples: their ``instances``, or
            ``gt_instances`` and ``ignored_instances``.
        metric: ``'bbox'``, ``'segm'``, ``'proposal'``, ``'proposal_fast'`` (recall by a simpler rule: each
            object and each proposal pair up once, crowds are left out), or several of them.
        classwise: log a table of the classes and report the AP of each.
        proposal_nums: numbers of detections per image that recall is measured at.
        iou_thrs: overlaps from which a detection counts; None is 0.5, 0.55, ..., 0.95.
        metric_items: names of the figures to report, such as ``['mAP', 'AR@100']``; None is all twelve for
            boxes and masks, the recalls for proposals.
        format_only: write the predictions and measure nothing; needs `outfile_prefix`.
        outfile_prefix: write the predictions to ``<prefix>.bbox.json`` (``.segm.json``, ``.proposal.json``).
        backend: ``'hotcoco'``, ``'pycocotools'``, or ``'auto'`` for the first of them that is installed.
        sort_categories: report the classes by ascending category id, as Objects365 does.
        backend_args: kept for configs; files are read from the local disk.
        use_mp_eval: kept for configs; the faster backend needs no processes.
        collect_device: see `Metric`.
        prefix: put before the names, ``coco`` if None.

    Raises:
        ConfigError: an argument is unusable.
        DataError: the annotation file cannot be read.
    """

    default_prefix: ClassVar[str | None] = "coco"

    def __init__(
        self,
        ann_file: str | None = None,
        metric: str | Sequence[str] = "bbox",
        classwise: bool = False,
        proposal_nums: Sequence[int] = (100, 300, 1000),
        iou_thrs: float | Sequence[float] | None = None,
        metric_items: str | Sequence[str] | None = None,
        format_only: bool = False,
        outfile_prefix: str | None = None,
        backend: str = "auto",
        sort_categories: bool = False,
        backend_args: dict[str, Any] | None = None,
        use_mp_eval: bool = False,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.metrics = _metrics(metric)
        self.classwise = classwise
        self.max_dets = _max_dets(proposal_nums)
        self.iou_thrs = _thresholds(iou_thrs)
        self.metric_items = _items(metric_items, self.max_dets)
        if format_only and not outfile_prefix:
            raise ConfigError("format_only=True needs outfile_prefix='path/and/start_of_name' to write to")
        self.format_only = format_only
        self.outfile_prefix = outfile_prefix
        self.backend = backend
        resolve_backend(backend)
        self.sort_categories = sort_categories
        self.backend_args = backend_args
        self.use_mp_eval = use_mp_eval
        self.ann_file = ann_file
        self.truth = read_truth(ann_file) if ann_file else None
        if self.truth is not None and not len(self.truth) and not format_only:
            raise DataError(
                f"{ann_file} holds no annotations, so there is nothing to evaluate against. "
                "Set format_only=True and outfile_prefix to write the predictions only."
            )

    @property
    def dataset_meta(self) -> dict[str, Any] | None:
        """Meta information of the data set; its classes are sought in the annotation file when set."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict[str, Any]) -> None:
        self._dataset_meta = dataset_meta
        if self.truth is not None:
            self._category_ids(self.truth)

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Keep the predictions of a batch as arrays, one entry per image."""
        classes = self._classes()
        self.results.extend(
            entry_of(sample, classes, with_masks="segm" in self.metrics, with_truth=self.ann_file is None)
            for sample in data_samples
        )

    def identify(self, result: dict[str, Any]) -> Hashable:
        """The image's id: an image that a sampler gave to two ranks counts once."""
        return result["img_id"]

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """All figures that were asked for.

        Args:
            results: entries of all images, see `coco_results.entry_of`.
        """
        classes = self._classes()
        if self.truth is not None:
            truth, category_ids = self.truth, self._category_ids(self.truth)
        else:
            truth = truth_of_results(results, classes)
            category_ids = {label: label for label in range(len(classes))}
        detections = table_of(results, truth, self.ann_file)
        if self.outfile_prefix:
            write_results(self.outfile_prefix, detections, truth, category_ids, self.metrics)
        if self.format_only:
            return {}
        self._warn(results, truth, detections)
        figures: dict[str, float] = {}
        for metric in self.metrics:
            figures.update(self._measure(metric, truth, category_ids, detections, classes))
        return figures

    def _measure(
        self, metric: str, truth: CocoTruth, category_ids: dict[int, int], detections: Detections,
        classes: Sequence[str],
    ) -> dict[str, float]:
        label_of = {category: label for label, category in category_ids.items()}
        labels = np.array([label_of.get(category, -1) for category in truth.category_ids.tolist()], np.int64)
        if not (labels >= 0).any():
            logger.warning("no object of the classes %s is annotated: every figure is -1", ", ".join(classes))
        if metric == "proposal_fast":
            return self._fast_recalls(truth, labels, detections)
        proposals = metric == "proposal"
        settings = EvalSettings(
            self.iou_thrs, self.max_dets, "segm" if metric == "segm" else "bbox", use_cats=not proposals
        )
        if metric == "segm":
            detections = dataclasses.replace(detections, scores=detections.mask_scores)
            _require_masks(truth, labels)
        curves = evaluate_curves(truth, labels, detections, len(classes), settings, self.backend)
        logger.info("%s\n%s", metric, "\n".join(summary_lines(curves)))
        values = all_figures(curves)
        default = [name for name in values if name.startswith("AR") or not proposals]
        start = "" if proposals else f"{metric}_"
        figures = {f"{start}{name}": values[name] for name in self.metric_items or default}
        if self.classwise and not proposals:
            order = list(category_ids)
            if self.sort_categories:
                order.sort(key=category_ids.__getitem__)
            rows = [class_figures(curves, label) for label in order]
            names = [classes[label] for label in order]
            counts = [int(((labels == label) & ~truth.crowd).sum()) for label in order]
            logger.info("%s of each class\n%s", metric, class_table(names, rows, counts))
            suffix = "precision" if metric == self.metrics[0] else f"{metric}_precision"
            figures.update({f"{name}_{suffix}": row["mAP"] for name, row in zip(names, rows, strict=True)})
        return figures

    def _fast_recalls(
        self, truth: CocoTruth, labels: np.ndarray, detections: Detections
    ) -> dict[str, float]:
        kept = (labels >= 0) & ~truth.crowd
        objects = rows_of_images(truth.boxes[kept], truth.images[kept], len(truth.image_ids))
        scored = np.column_stack([detections.boxes, detections.scores])
        found = rows_of_images(scored, detections.images, len(truth.image_ids))
        for rows in (*objects, *found):
            rows[:, 2:4] += rows[:, :2]
        recalls = eval_recalls(objects, found, self.max_dets, self.iou_thrs).mean(axis=1)
        figures = {f"AR@{number}": float(value) for number, value in zip(self.max_dets, recalls, strict=True)}
        logger.info("proposal_fast: %s", ", ".join(f"{name} {value:.3f}" for name, value in figures.items()))
        return figures

    def _classes(self) -> tuple[str, ...]:
        classes = (self._dataset_meta or {}).get("classes")
        if not classes:
            raise ConfigError(
                "CocoMetric does not know the classes: set its dataset_meta = dict(classes=(...)), "
                "which the runner takes from the data set's metainfo"
            )
        return (classes,) if isinstance(classes, str) else tuple(classes)

    def _category_ids(self, truth: CocoTruth) -> dict[int, int]:
        """Category id of each label, by name. A class that the file does not know gets a negative one."""
        by_name: dict[str, int] = {}
        for category, name in truth.categories:
            by_name.setdefault(name, category)
        classes = self._classes()
        missing = [name for name in classes if name not in by_name]
        if missing:
            close = difflib.get_close_matches(missing[0], by_name, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            message = (
                f"{self.ann_file} has no category {', '.join(map(repr, missing))}; it has "
                f"{', '.join(list(by_name)[:20])}.{hint}"
            )
            if len(missing) == len(classes):
                raise DataError(message)
            logger.warning("%s Detections of these classes count for nothing.", message)
        return {label: by_name.get(name, -1 - label) for label, name in enumerate(classes)}

    def _warn(self, results: Sequence[dict[str, Any]], truth: CocoTruth, detections: Detections) -> None:
        if not len(detections):
            logger.warning("the model found nothing in %d images: every figure is 0", len(results))
        unseen = len(truth.image_ids) - len(results)
        if unseen > 0:
            logger.warning(
                "%d of the %d images in %s were not predicted; their objects count as missed",
                unseen, len(truth.image_ids), self.ann_file,
            )


def _require_masks(truth: CocoTruth, labels: np.ndarray) -> None:
    lacking = [row for row in np.flatnonzero(labels >= 0) if not truth.segmentations[row]]
    if lacking:
        raise DataError(
            f"metric='segm' needs a segmentation of every object; {len(lacking)} have none, the first in "
            f"image {truth.image_ids[truth.images[lacking[0]]]}"
        )


def _metrics(metric: str | Sequence[str]) -> list[str]:
    metrics = [metric] if isinstance(metric, str) else list(metric)
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or not metrics:
        raise ConfigError(f"metric must be one or more of {', '.join(METRICS)}, got {metric!r}")
    return metrics


def _max_dets(proposal_nums: Sequence[int]) -> tuple[int, ...]:
    """Ascending, each once: COCO's rule knows no other order."""
    numbers = (proposal_nums,) if isinstance(proposal_nums, int) else tuple(proposal_nums)
    if not numbers or any(not isinstance(number, int) or number < 1 for number in numbers):
        raise ConfigError(f"proposal_nums must be positive whole numbers, got {proposal_nums!r}")
    return tuple(sorted(set(numbers)))


def _thresholds(iou_thrs: float | Sequence[float] | None) -> np.ndarray:
    if iou_thrs is None:
        return np.linspace(0.5, 0.95, 10)
    values = np.atleast_1d(np.asarray(iou_thrs, dtype=np.float64))
    if not values.size or not ((values > 0) & (values <= 1)).all():
        raise ConfigError(f"iou_thrs must lie above 0 and up to 1, got {iou_thrs!r}")
    return values


def _items(metric_items: str | Sequence[str] | None, max_dets: tuple[int, ...]) -> list[str] | None:
    if metric_items is None:
        return None
    items = [metric_items] if isinstance(metric_items, str) else list(metric_items)
    known = figure_names(max_dets)
    unknown = [item for item in items if item not in known]
    if unknown:
        raise ConfigError(
            f"metric_items: {unknown[0]!r} is not measured with proposal_nums={max_dets}; "
            f"available: {', '.join(known)}"
        )
    return items
