"""The twelve figures of COCO, and those of each class, out of precision and recall."""
import io
from collections.abc import Sequence

import numpy as np

from det_datasets.coco_eval_backends import Curves

_AREAS = ("all", "small", "medium", "large")
_AREA_SUFFIXES = {"s": 1, "m": 2, "l": 3}
CLASS_FIGURES = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")


def figure_names(max_dets: Sequence[int]) -> list[str]:
    """Names of all figures, in COCO's order: six of precision, one recall for each number, three by size.

    Args:
        max_dets: numbers of detections per image, ascending; the last one holds where none is named.
    """
    recalls = [f"AR@{number}" for number in max_dets]
    return [*CLASS_FIGURES, *recalls, *(f"AR_{suffix}@{max_dets[-1]}" for suffix in _AREA_SUFFIXES)]


def all_figures(curves: Curves) -> dict[str, float]:
    """Every figure; -1 where there is nothing to measure it on (no small object, say).

    As in pycocotools, ``mAP`` looks at 100 detections per image where 100 is among the numbers, and the
    other precisions at the largest number.
    """
    max_dets = curves.settings.max_dets
    last = len(max_dets) - 1
    at_100 = max_dets.index(100) if 100 in max_dets else last
    values = {"mAP": _mean(curves.precision[..., 0, at_100])}
    values["mAP_50"] = _mean(curves.precision[_at_overlap(curves, 0.5)][..., 0, last])
    values["mAP_75"] = _mean(curves.precision[_at_overlap(curves, 0.75)][..., 0, last])
    for suffix, area in _AREA_SUFFIXES.items():
        values[f"mAP_{suffix}"] = _mean(curves.precision[..., area, last])
    for position, number in enumerate(max_dets):
        values[f"AR@{number}"] = _mean(curves.recall[..., 0, position])
    for suffix, area in _AREA_SUFFIXES.items():
        values[f"AR_{suffix}@{max_dets[last]}"] = _mean(curves.recall[..., area, last])
    return values


def class_figures(curves: Curves, label: int) -> dict[str, float]:
    """The six precisions of one class, NaN where it has no object of that kind.

    Args:
        curves: precision and recall.
        label: index of the class.
    """
    precision = curves.precision[:, :, label, :, -1]
    values = {"mAP": _mean(precision[..., 0], np.nan)}
    values["mAP_50"] = _mean(precision[_at_overlap(curves, 0.5)][..., 0], np.nan)
    values["mAP_75"] = _mean(precision[_at_overlap(curves, 0.75)][..., 0], np.nan)
    for suffix, area in _AREA_SUFFIXES.items():
        values[f"mAP_{suffix}"] = _mean(precision[..., area], np.nan)
    return values


def class_table(classes: Sequence[str], rows: Sequence[dict[str, float]], counts: Sequence[int]) -> str:
    """A table of the classes for the log.

    Args:
        classes: names.
        rows: what `class_figures` gives, for each class.
        counts: number of objects of each class.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table("category", "objects", *CLASS_FIGURES)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row, count in zip(classes, rows, counts, strict=True):
        table.add_row(name, str(count), *(_cell(row[figure]) for figure in CLASS_FIGURES))
    text = io.StringIO()
    Console(file=text, width=100, color_system=None).print(table)
    return text.getvalue().rstrip()


def summary_lines(curves: Curves) -> list[str]:
    """The figures as the well-known lines, for the log."""
    values = all_figures(curves)
    max_dets = curves.settings.max_dets
    thresholds = curves.settings.iou_thrs
    span = f"{thresholds[0]:.2f}:{thresholds[-1]:.2f}"
    number = 100 if 100 in max_dets else max_dets[-1]
    most = max_dets[-1]
    rows = [("mAP", span, 0, number), ("mAP_50", "0.50", 0, most), ("mAP_75", "0.75", 0, most)]
    rows += [(f"mAP_{suffix}", span, area, most) for suffix, area in _AREA_SUFFIXES.items()]
    rows += [(f"AR@{count}", span, 0, count) for count in max_dets]
    rows += [(f"AR_{suffix}@{most}", span, area, most) for suffix, area in _AREA_SUFFIXES.items()]
    return [
        f"{'Average Recall    (AR)' if name.startswith('AR') else 'Average Precision (AP)'} "
        f"@[ IoU={overlap:<9} | area={_AREAS[area]:>6} | maxDets={count:>4} ] = {values[name]:.3f}"
        for name, overlap, area, count in rows
    ]


def _at_overlap(curves: Curves, overlap: float) -> np.ndarray:
    return np.flatnonzero(np.isclose(curves.settings.iou_thrs, overlap))


def _mean(values: np.ndarray, missing: float = -1.0) -> float:
    """Mean over what is defined; -1 marks what is not."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else missing


def _cell(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"
